"""Files that appear whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from sweeper.errors import DiskError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a system says when there is no room for more."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends well: flushed to disk, then renamed.

    Raises:
        DiskError: The disk is full or the folder not writable; the old file stays as it was and no partial one is left.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        advice = "free space or choose another folder" if error.errno in FULL else "choose another folder"
        raise DiskError(f"{path}: cannot be written ({error.strerror or error}); {advice}") from error
    finally:
        with suppress(OSError):
            partial.unlink()
