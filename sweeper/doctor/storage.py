"""The folder of the runs: can it be written, is there room, is it fast, and does it keep the promises we build on?"""

import fcntl
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sweeper.doctor.finding import Area, Finding, ok, problem, warning, within
from sweeper.files import replacing

TIMEOUT_S = 60.0
TRIES = 20
SLOW_S = 0.1
"""A record, a heartbeat, a claim of an attempt: a dozen such writes for each run, and one a minute while it trains."""
LOW_BYTES, FEW_BYTES = 10 * 2**30, 2**30
LOW_FILES, FEW_FILES = 100_000, 1000
"""A run leaves about ten files."""
SKEW_S, BAD_SKEW_S = 5.0, 60.0
"""Locks of launchers and heartbeats are judged by their age: half of the shortest limit, 120 s, is too much."""

SHARED = frozenset(
    {
        "nfs",
        "nfs4",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "fuse.ceph",
        "wekafs",
        "panfs",
        "orangefs",
        "pvfs2",
        "fuse.glusterfs",
        "cifs",
        "smb3",
        "afs",
        "9p",
        "virtiofs",
        "ocfs2",
        "gfs2",
        "fhgfs",
        "fuse.juicefs",
        "vast",
        "fuse.daos",
    }
)
"""Types of filesystems that several machines mount, as /proc/mounts names them."""


@contextmanager
def scratch_in(runs: Path) -> Iterator[Path]:
    """A new folder below the runs; it goes at the end, with the folders that had to be made for it.

    Raises:
        OSError: The folder cannot be written.
    """
    made = [path for path in (runs, *runs.parents) if not path.exists()]
    scratch = runs / f".doctor-{uuid4().hex[:8]}"
    try:
        scratch.mkdir(parents=True)
        yield scratch
    finally:
        for _ in range(5):  # a job that is being cancelled may write a last file
            shutil.rmtree(scratch, ignore_errors=True)
            if not scratch.exists():
                break
            time.sleep(0.5)
        for path in made:
            with suppress(OSError):
                path.rmdir()


def probe_writable(runs: Path) -> Finding:
    """Whether the folder can be made, written and emptied."""
    with scratch_in(runs):
        return ok("folder", "writable", str(runs.resolve()))


def folder_findings(scratch: Path, *, shared: bool) -> Iterator[Finding]:
    """All that is to be known of the filesystem under `scratch` from this machine.

    Args:
        shared: Whether other machines must see it too.
    """
    remedy = "the filesystem hangs: ask its administrators, or choose another --runs"
    for name, look in (
        ("filesystem", lambda: judge_filesystem(*filesystem(scratch.parent), shared=shared)),
        ("space", lambda: probe_space(scratch)),
        ("latency", lambda: judge_latency(write_times(scratch))),
        ("rename", lambda: probe_rename(scratch)),
        ("locks", lambda: probe_locks(scratch)),
        ("clock", lambda: judge_clock("folder", "the filesystem", clock_skew(scratch))),
    ):
        yield from within(TIMEOUT_S, "folder", name, look, remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of /proc/mounts."""

    path: str
    kind: str


def read_mounts(text: str) -> tuple[Mount, ...]:
    """The mounts of /proc/mounts; a blank in a path is written `\\040` there."""
    lines = (line.split() for line in text.splitlines())
    return tuple(Mount(path=parts[1].replace("\\040", " "), kind=parts[2]) for parts in lines if len(parts) >= 3)


def filesystem(path: Path, mounts: tuple[Mount, ...] | None = None) -> tuple[Path, Mount | None]:
    """The mount that a path lies on: the longest that is above it, of equal ones the last."""
    known = read_mounts(Path("/proc/mounts").read_text()) if mounts is None else mounts
    real = path.resolve()
    above = [mount for mount in known if real.is_relative_to(mount.path)]
    return real, max(reversed(above), key=lambda mount: len(mount.path)) if above else None


def judge_filesystem(path: Path, mount: Mount | None, *, shared: bool) -> Finding:
    """Whether other machines can see the folder, as far as its type tells."""
    if mount is None:
        return warning("folder", "filesystem", f"{path}: unknown", "see that every node mounts it")
    value = f"{mount.kind} at {mount.path}"
    if not shared or mount.kind in SHARED:
        return ok("folder", "filesystem", str(path), value)
    says = f"{path} looks local to this machine: jobs on other nodes would not find it"
    return warning("folder", "filesystem", says, "choose --runs on a filesystem that every node mounts", value)


def probe_space(path: Path) -> Finding:
    """Room and inodes; a quota of one's own is not seen here."""
    found = os.statvfs(path)
    return judge_space(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)


def judge_space(free: int, files: int | None) -> Finding:
    """Whether there is room for checkpoints, and for the files of many runs (`files`, None where nobody counts)."""
    value = f"{free / 2**30:.0f} GiB free" + (f", {files:,} files" if files is not None else "")
    remedy = "free space, or choose another --runs; `sweeper plan` says what checkpoints take"
    if free < FEW_BYTES or (files is not None and files < FEW_FILES):
        return problem("folder", "space", "nearly full", remedy, value)
    if free < LOW_BYTES or (files is not None and files < LOW_FILES):
        return warning("folder", "space", "little is left", remedy, value)
    return ok("folder", "space", "enough is left (quotas are not seen here)", value)


def write_times(folder: Path, tries: int = TRIES) -> tuple[float, ...]:
    """How long each of some whole-or-nothing writes takes, seconds: create, flush, rename."""
    times = []
    for number in range(tries):
        start = time.perf_counter()
        with replacing(folder / f"write-{number}") as partial:
            partial.write_text("{}")
        times.append(time.perf_counter() - start)
    return tuple(times)


def judge_latency(times: tuple[float, ...]) -> Finding:
    """Whether writes are quick, by their median."""
    median = statistics.median(times)
    value = f"median {1e3 * median:.1f} ms, worst {1e3 * max(times):.0f} ms of {len(times)}"
    if median > SLOW_S:
        says = "create, flush and rename are slow: so are launches of many runs"
        return warning("folder", "latency", says, "choose a faster filesystem for --runs, such as the scratch", value)
    return ok("folder", "latency", "create, flush and rename are quick", value)


def probe_rename(folder: Path) -> Finding:
    """Whether a folder takes the place of an empty name only, on which the claim of a run by one process rests."""
    first, second = folder / "claim-1", folder / "claim-2"
    for path in (first, second):
        path.mkdir()
        (path / "owner").write_text(path.name)
    target = folder / "claimed"
    first.rename(target)
    try:
        second.rename(target)
    except OSError:
        if (target / "owner").read_text() == first.name:
            return ok("folder", "rename", "a folder is claimed once")
    remedy = "choose another filesystem for --runs: here two processes could train one run"
    return problem("folder", "rename", "a folder with content was replaced by another", remedy)


def probe_locks(folder: Path) -> Finding:
    """Whether a lock keeps a second holder out."""
    remedy = "none is needed; do not launch one sweep from two machines in the same second"
    path = folder / "lock"
    with path.open("w") as first, path.open("w") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            says = f"no locks here ({error.strerror}): launchers are kept apart by their owner files alone"
            return warning("folder", "locks", says, remedy)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return ok("folder", "locks", "flock keeps a second launcher out")
    return warning("folder", "locks", "flock lets two in: launchers are kept apart by their owner files alone", remedy)


def clock_skew(folder: Path) -> float:
    """Seconds that the filesystem's clock is ahead of ours; its stamp of a file lies between two looks at our clock."""
    path = folder / "clock"
    before = time.time()
    path.write_text("")
    after = time.time()
    stamp = path.stat().st_mtime
    return stamp - min(max(stamp, before), after)


def judge_clock(area: Area, whose: str, skew_s: float, doubt_s: float = 0.0) -> Finding:
    """Whether a clock agrees with this machine's.

    Args:
        skew_s: How far it is ahead.
        doubt_s: How far that may be wrong.
    """
    value = f"{skew_s:+.1f} s" + (f" ± {doubt_s:.1f} s" if doubt_s >= 0.05 else "")
    says = f"the clock of {whose} is off by {abs(skew_s):.0f} s, and signs of life are judged by their age"
    remedy = "ask the administrators for NTP or chrony on that machine"
    off = abs(skew_s) - doubt_s
    if off > BAD_SKEW_S:
        return problem(area, "clock", says, remedy, value)
    if off > SKEW_S:
        return warning(area, "clock", says, remedy, value)
    return ok(area, "clock", f"the clock of {whose} agrees with this machine's", value)
