"""The one exception a user is meant to read."""


class EcarError(ValueError):
    """Something the user can put right: one sentence that names the value and the remedy.

    The command line prints it as ``error: <sentence>`` and exits with status 2; in Python it is
    an ordinary ``ValueError``.
    """
