"""The one error a user of the platform can cause: its message says what, where, and how to mend it."""


class PlatformError(RuntimeError):
    """Bad configuration, unreachable storage, busy port and the like. Shown to the user as it is."""
