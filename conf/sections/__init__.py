"""The sections of the settings, a file per concern. Each is imported from its own file."""
