"""What can go wrong, as types a caller can catch."""


class RMSDError(ValueError):
    """Input that cannot be compared: the message says what is wrong, where, and what was expected."""


class NotIsomorphicError(RMSDError):
    """The two molecular graphs are different molecules; the message says in what they differ."""


class FormatError(RMSDError):
    """A file, or a record of one, that cannot be read; the message says in which line and what was expected."""


class SearchLimitError(RuntimeError):
    """A node or time limit stopped the work before there was any answer to give (not even a bound with a mapping).

    Attributes
    ----------
    partial : ndarray of float64 or None
        For `rmsd_matrix` and `rmsd_table`, what was computed, in Å; NaN elsewhere.
    """

    def __init__(self, message: str, partial: object = None) -> None:
        super().__init__(message)
        self.partial = partial
