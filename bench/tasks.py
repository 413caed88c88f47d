"""Tasks for worker processes, in a module that imports nothing."""


def nothing(x):
    """Do nothing."""
    return x
