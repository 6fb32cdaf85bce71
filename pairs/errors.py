"""The one exception that a person is meant to read."""


class UserError(ValueError):
    """What came, what was expected, how to fix it: one line, no traceback."""
