"""Which files `data.path` names, and a disk that cannot be read told in one sentence."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path

from model.config import DataConfig, check


def find_files(config: DataConfig, suffixes: tuple[str, ...]) -> tuple[Path, ...]:
    """The files that `data.path` names: itself, those of the folder with a known suffix, or the matches of a glob."""
    path = Path(absolute(config.path))
    if path.is_dir():
        found = walk(path, suffixes)
        check(bool(found), f"data.path {config.path} holds no {' or '.join(suffixes)} file; name a folder that does")
        return found
    if path.exists() or not has_magic(config.path):
        found = (path,)
    else:
        matches = sorted(glob(str(path), recursive=True))  # noqa: PTH207 - the pattern may be absolute
        found = tuple(Path(name) for name in matches if Path(name).is_file())
        check(bool(found), f"data.path {config.path} matches no file; check the pattern")
    for each in found:
        check(each.exists(), f"data.path {config.path} does not exist; check the path")
    return found


def walk(root: Path, suffixes: tuple[str, ...], leave_out: frozenset[str] = frozenset()) -> tuple[Path, ...]:
    """The files below `root` that end so, sorted by path; no folder of a name in `leave_out` is entered."""
    found: list[str] = []
    with reading(root):
        for folder, folders, names in os.walk(root, onerror=_raise, followlinks=True):
            folders[:] = [name for name in folders if name not in leave_out]
            found += (f"{folder}/{name}" for name in names if name.endswith(suffixes))
    return tuple(map(Path, sorted(found)))


def _raise(error: OSError) -> None:
    raise error


def absolute(path: str) -> str:
    """`path`, which may be a glob or start with ~, from the root of the disk."""
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - a glob is no path to resolve


def place(config: DataConfig) -> str:
    """Where the data lie, as an error names them."""
    return f"data.path {config.path}" if config.path else f"data={config.source}"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tell a failure to read `path` as a ValueError of one sentence."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).splitlines()[0].lower()
        raise ValueError(f"cannot read {path}: {reason}; check the path and its permissions") from error
