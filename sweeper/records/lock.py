"""One launcher of a sweep at a time."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sweeper.errors import DiskError, LaunchError, SweeperError
from sweeper.records.folder import SweepFolder, read_json
from sweeper.records.owner import Owner, owner_of
from sweeper.typed import plain

LOCK_STALE_S = 120.0
"""A launcher of another machine that did not renew its lock for this long is gone, seconds."""


@contextmanager
def launcher_lock(folder: SweepFolder) -> Iterator[Callable[[], None]]:
    """Hold the sweep for one launcher; yields what renews the hold, to be called every few seconds.

    The kernel frees the lock when its process dies, however that happens. Filesystems that do not share locks between
    machines are covered by the owner written into the file and its time of change.

    Raises:
        LaunchError: Another launcher of this sweep is alive.
    """
    path = folder.path / "launcher.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise DiskError(f"{path}: cannot be opened ({error.strerror}); mend the folder or choose another") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError:
            raise _held_by_another(path) from None
        except OSError:  # a filesystem without locks: the owner below must do
            locked = False
        renewed = time.time() - path.stat().st_mtime
        other = _lock_owner(path)
        if other is not None and not other.rebooted:
            alive = not locked and other.alive if other.here else renewed < LOCK_STALE_S
            if alive:
                raise _held_by_another(path)
        try:
            file.truncate(0)
            file.write(json.dumps(plain(owner_of(os.getpid()))))
            file.flush()
        except OSError as error:
            with suppress(OSError):
                file.close()  # its buffer has nowhere to go either
            raise DiskError(
                f"{path}: cannot be written ({error.strerror}); free space or choose another folder"
            ) from error
        try:
            yield lambda: os.utime(path)
        finally:
            file.truncate(0)


def _held_by_another(path: Path) -> LaunchError:
    other = _lock_owner(path)
    who = f"on {other.at.host} (pid {other.pid})" if other else "already"
    return LaunchError(f"{path.parent}: another launch of this sweep runs {who}; wait for it or stop it")


def _lock_owner(path: Path) -> Owner | None:
    try:
        return read_json(path, Owner) if path.stat().st_size else None
    except SweeperError:
        return None
