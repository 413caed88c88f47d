"""A tokenizer that reads what a program may change in its module."""

LEFT_OUT = set()


def cut(text):
    """Split at blanks."""
    return [word for word in text.split() if word not in LEFT_OUT]
