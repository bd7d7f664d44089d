"""What a command ends with in one line: errors of the user's, and of the world outside."""


class ConfigError(ValueError):
    """Something a user wrote cannot be used; the message says what, what was got, and how to fix it."""


class RunError(RuntimeError):
    """A run cannot go on for a reason outside its code; the message says what, where, and how to go on."""
