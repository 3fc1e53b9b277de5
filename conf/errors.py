"""The one kind of error that users see: a plain sentence."""


class PlainError(Exception):
    """What is wrong, where, which value, and what to do, in one plain sentence. The command line exits with 2."""
