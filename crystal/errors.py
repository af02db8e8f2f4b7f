"""What all errors whose message was written for the user have in common."""


class CrystalError(Exception):
    """The message is one sentence that says which file or setting, what is wrong and what to do; the command line
    prints it without a stack trace.
    """


class RunError(CrystalError, RuntimeError):
    """A training run that cannot start, go on or be used; the message says why and what to do."""
