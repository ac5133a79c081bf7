"""The content of the data that a cell names: the one place where a grid reads the disk."""

from model.config import DataConfig
from sweeper.errors import DataError


def fingerprinted(data: DataConfig, vocab: int, where: str) -> DataConfig:
    """`data` with the fingerprint of its content.

    Raises:
        DataError: The data cannot be read or do not fit the vocabulary.
    """
    from model.corpus import with_fingerprint  # reads files, which most cells never need

    try:
        return with_fingerprint(data, vocab)
    except (ValueError, OSError) as error:
        raise DataError(f"{where}: {error}") from error
