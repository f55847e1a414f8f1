"""The exceptions of files that are no usable image."""


class BrokenImageError(ValueError):
    """A file that is not a usable image; the message says why."""


class UnknownRangeError(BrokenImageError):
    """An image of more than 8 bits for which nobody has said which of its values are black and white."""
