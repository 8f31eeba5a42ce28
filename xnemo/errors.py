"""The one error a user of `xnemo` can cause: its message says what, where, and how to mend it."""


class XNeMoError(ValueError):
    """Bad input to the method: a file, tensor or option. One sentence, shown to the user as it is."""
