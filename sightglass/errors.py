"""The one exception that ends a command with a sentence instead of a traceback."""


class UserError(Exception):
    """Something the person at the keyboard can mend; the message says what is wrong and what to set or run."""
