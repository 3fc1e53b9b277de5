"""The command line: one short function per verb."""


def main() -> None:
    """Entry point."""
