"""Errors that end a command with one line: wrong input, and faults outside of the code."""


class ConfigError(ValueError):
    """Something a user wrote cannot be used; the message says what, what was got, and how to fix it."""


class RunError(RuntimeError):
    """A run cannot continue for a reason outside its code; the message says what, where, and how to continue."""
