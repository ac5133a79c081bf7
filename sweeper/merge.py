"""Join the runs of a sweep from another filesystem's folder: each is brought whole or not at all, ours win.

Only runs come over. Plans, launches, jobs and figures belong to the folder that they were made in.
"""

import errno
import math
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

from sweeper.errors import DiskError, SweeperError
from sweeper.files import replacing
from sweeper.records import (
    End,
    RunRecord,
    SweepFolder,
    launcher_lock,
    read_attempts,
    read_evidence,
    read_record,
    read_spec,
    write_end,
)
from sweeper.slurm import Queue
from sweeper.spec import RunSpec, run_id
from sweeper.status import State, state_of

Outcome = Literal[
    "brought",
    "continued",
    "kept",
    "differs",
    "at_work_here",
    "at_work_there",
    "unfinished",
    "other_sweep",
    "damaged",
]
"""What became of a run of the other folder:

`brought`: its result is here now. `continued`: its checkpoint is here, the next launch resumes it. `kept`: finished on
both sides, ours stays. `differs`: the same, but the results are not equal. `at_work_here`: finished there while
somebody is at work on it here; left. `at_work_there`: a job there lives or cannot be asked after; left. `unfinished`:
nobody is at work on it there, and nothing was brought. `other_sweep` and `damaged` ones are left, each with its reason.
"""

LOSS_TOLERANCE = 1e-6
"""Relative: float32 rounds at 6e-8, and a mean over some batches adds that up."""
LARGE_BYTES = 64 * 2**20
"""Files of an attempt beyond this are left: a record, a log and metrics are small."""
SUFFIX = ".merging"
ACTIVE_HERE: tuple[State, ...] = ("running", "unknown")
"""A job that only waits in the queue finds the result and ends at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedRun:
    """What became of one run of the other folder."""

    run_id: str
    outcome: Outcome
    detail: str = ""
    """Why, in a clause, where the outcome does not say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """What a merge did, or with `dry_run` would do."""

    sweep: str
    source: str
    folder: str
    dry_run: bool
    runs: tuple[MergedRun, ...]
    left_out: tuple[str, ...] = ()
    """Files of attempts that were too large."""

    @property
    def counts(self) -> Mapping[Outcome, int]:
        """How many runs had each outcome that occurs."""
        found = [run.outcome for run in self.runs]
        return {outcome: found.count(outcome) for outcome in OUTCOMES if outcome in found}


OUTCOMES: tuple[Outcome, ...] = (
    "brought",
    "continued",
    "kept",
    "differs",
    "at_work_here",
    "at_work_there",
    "unfinished",
    "other_sweep",
    "damaged",
)


def open_elsewhere(path: Path, name: str = "") -> tuple[SweepFolder, str]:
    """The folder of a sweep on another filesystem, and the sweep's name: as given, else as its runs say.

    Raises:
        SweeperError: It is no folder of a sweep, or its runs name none or several.
    """
    there = SweepFolder(path.parent, path.name)
    if not (path / "runs").is_dir():
        inside = sorted(child.parent.name for child in path.glob("*/runs")) if path.is_dir() else []
        hint = f"did you mean {path / inside[0]}?" if inside else "give the folder of one sweep, such as …/runs/NAME"
        raise SweeperError(f"{path}: not the folder of a sweep (it has no runs/); {hint}")
    if name:
        return there, name
    named = {spec.sweep for spec in _readable_specs(there)}
    if len(named) != 1:
        found = f"its runs name {', '.join(sorted(named))}" if named else "no run in it says which"
        raise SweeperError(f"{path}: which sweep? {found}; say it: sweeper merge {path} NAME")
    return there, named.pop()


def merge_runs(
    there: SweepFolder,
    here: SweepFolder,
    *,
    queue: Queue | None = None,
    checkpoints: bool = False,
    weights: bool = False,
    dry_run: bool = False,
) -> Merge:
    """Bring the runs of a sweep from another folder into ours; doing it again changes nothing.

    Args:
        queue: What SLURM says here; jobs of another cluster are unknown whatever it says, and their runs are left.
        checkpoints: Also bring those of runs that were stopped there and never begun here, so that they resume here.
        weights: Also bring the final weights of finished runs.
        dry_run: Change nothing.

    Raises:
        LaunchError: A launch of the sweep is at work here.
        DiskError: A file cannot be written here; what came before it stays.
        SweeperError: Both are the same folder.
    """
    if here.path.exists() and here.path.samefile(there.path):
        raise SweeperError(f"{there.path}: that is the sweep's own folder; name the one on the other filesystem")
    if dry_run:
        decided = tuple(_decisions(there, here, queue, checkpoints=checkpoints))
        return _merge(there, here, decided, dry_run=True)
    left_out: list[str] = []
    with launcher_lock(here) as renew:
        _clear(here)
        done = []
        for one in _decisions(there, here, queue, checkpoints=checkpoints):
            renew()
            done.append(_carried_out(one, there, here, weights=weights, leave_out=left_out.append))
    return _merge(there, here, tuple(done), left_out=tuple(left_out))


def _merge(
    there: SweepFolder,
    here: SweepFolder,
    runs: tuple[MergedRun, ...],
    *,
    dry_run: bool = False,
    left_out: tuple[str, ...] = (),
) -> Merge:
    return Merge(
        sweep=here.name,
        source=str(there.path),
        folder=str(here.path),
        dry_run=dry_run,
        runs=runs,
        left_out=left_out,
    )


# ── what is to be done ─────────────────────────────────────────────────────────────────────────────────────────────


def _decisions(there: SweepFolder, here: SweepFolder, queue: Queue | None, *, checkpoints: bool) -> Iterator[MergedRun]:
    """What to do with each run of the other folder, in the order of their names."""
    names = sorted(path.name for path in (there.path / "runs").iterdir() if not path.name.startswith("."))
    read = {name: _read(there, here, name) for name in names}
    sound = [name for name, found in read.items() if not isinstance(found, MergedRun)]
    states_there = {name: state_of(seen) for name, seen in read_evidence(there, sound, queue).items()}
    states_here = {name: state_of(seen) for name, seen in read_evidence(here, sound, queue).items()}
    for name, found in read.items():
        if isinstance(found, MergedRun):
            yield found
        else:
            yield _decided(found, states_there[name], states_here[name], there, checkpoints=checkpoints)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sides:
    """A sound run of the other folder, and what we have of it."""

    spec: RunSpec
    theirs: RunRecord | None
    ours: RunRecord | None


def _read(there: SweepFolder, here: SweepFolder, name: str) -> _Sides | MergedRun:
    """What both folders hold of a run; the outcome of one that cannot be merged."""
    try:
        spec, record = read_spec(there, name), read_record(there, name)
        read_attempts(there, name)
        ours = read_record(here, name)
        read_attempts(here, name)
    except SweeperError as error:
        return MergedRun(run_id=name, outcome="damaged", detail=str(error))
    if spec.sweep != here.name:
        return MergedRun(run_id=name, outcome="other_sweep", detail=f"it is of the sweep {spec.sweep}")
    identity = run_id(spec.lr, spec.train, spec.trainer)
    if {name, spec.run_id, identity} != {name}:
        detail = f"its spec is that of {identity}, not of the folder {there.run(name)}"
        return MergedRun(run_id=name, outcome="damaged", detail=detail)
    if record is not None and record.run_id != name:
        detail = f"its record is that of {record.run_id}, not of the folder {there.run(name)}"
        return MergedRun(run_id=name, outcome="damaged", detail=detail)
    return _Sides(spec=spec, theirs=record, ours=ours)


def _decided(
    sides: _Sides, state_there: State, state_here: State, there: SweepFolder, *, checkpoints: bool
) -> MergedRun:
    name = sides.spec.run_id
    outcome: Outcome
    detail = ""
    if sides.theirs is not None and sides.ours is not None:
        detail = difference(sides.ours, sides.theirs)
        outcome = "differs" if detail else "kept"
    elif sides.theirs is not None:
        outcome = "at_work_here" if state_here in ACTIVE_HERE else "brought"
    elif state_there in ("queued", "running", "unknown"):
        outcome, detail = "at_work_there", state_there
    elif checkpoints and state_there == "stopped" and state_here == "new" and _has_checkpoint(there, name):
        outcome = "continued"
    else:
        outcome, detail = "unfinished", f"{state_there} there, {state_here} here"
    return MergedRun(run_id=name, outcome=outcome, detail=detail)


def difference(ours: RunRecord, theirs: RunRecord) -> str:
    """How two results of one run differ beyond rounding, in a clause; empty if they do not."""
    if ours.state != theirs.state:
        return f"{ours.state} here, {theirs.state} there"
    if ours.loss is None or theirs.loss is None:
        return "" if ours.loss == theirs.loss else f"loss {ours.loss} here, {theirs.loss} there"
    if math.isclose(ours.loss, theirs.loss, rel_tol=LOSS_TOLERANCE):
        return ""
    return f"loss {ours.loss:.7g} here ({_made_on(ours)}), {theirs.loss:.7g} there ({_made_on(theirs)})"


def _made_on(record: RunRecord) -> str:
    return f"{record.world_size} × {record.device or 'unknown device'}"


def _has_checkpoint(folder: SweepFolder, name: str) -> bool:
    return bool(_files(folder.run(name) / "checkpoint"))


def _readable_specs(folder: SweepFolder) -> Iterator[RunSpec]:
    for path in sorted((folder.path / "runs").iterdir()):
        try:
            yield read_spec(folder, path.name)
        except SweeperError:
            continue


# ── doing it ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _UnreadableError(Exception):
    """A file of the other folder cannot be read, or changed while it was."""


def _carried_out(
    one: MergedRun,
    there: SweepFolder,
    here: SweepFolder,
    *,
    weights: bool,
    leave_out: Callable[[str], None],
) -> MergedRun:
    """Bring a run, if that was decided; one that cannot be read after all is damaged."""
    if one.outcome not in ("brought", "continued"):
        return one
    staged = f".{one.run_id}.{uuid.uuid4().hex[:8]}{SUFFIX}"  # beside the runs; no reader of runs sees it
    try:
        _copy_run(
            there.run(one.run_id), here.run(staged), goes_on=one.outcome == "continued", weights=weights, out=leave_out
        )
        _check_copy(there, here, one.run_id, staged)
        if one.outcome == "continued":
            _end_attempts(here, staged, there)
        _put_in_place(here, staged, one.run_id)
    except _UnreadableError as error:
        return replace(one, outcome="damaged", detail=str(error))
    finally:
        shutil.rmtree(here.run(staged), ignore_errors=True)
    return one


def _copy_run(source: Path, stage: Path, *, goes_on: bool, weights: bool, out: Callable[[str], None]) -> None:
    for name in ("spec.json", "record.json"):
        if (source / name).is_file():
            _copy(source / name, stage / name)
    for path in _files(source / "attempts"):
        if path.stat().st_size > LARGE_BYTES:
            out(str(path))
        else:
            _copy(path, stage / path.relative_to(source), flush=False)
    for path in _files(source / "checkpoint"):
        if goes_on or (weights and path.match("final-*.pt")):
            _copy(path, stage / path.relative_to(source))


def _files(folder: Path) -> tuple[Path, ...]:
    """The regular files of a folder and those inside it, sorted; nothing half written."""
    found = sorted(folder.rglob("*")) if folder.is_dir() else []
    return tuple(p for p in found if p.is_file() and not p.is_symlink() and not p.name.endswith(".partial"))


def _copy(source: Path, target: Path, *, flush: bool = True) -> None:
    """Copy a file; with `flush` it is on the disk when this returns."""
    try:
        file = source.open("rb")
    except OSError as error:
        raise _UnreadableError(f"{source}: cannot be read ({error.strerror})") from error
    with file:
        if flush:
            with replacing(target) as partial, partial.open("wb") as copy:
                _pour(file, copy, source)
            return
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as copy:
                _pour(file, copy, source)
        except OSError as error:
            raise DiskError(f"{target}: cannot be written ({error.strerror}); free space and merge again") from error


def _pour(file: BinaryIO, copy: BinaryIO, source: Path) -> None:
    while True:
        try:
            content = file.read(2**20)
        except OSError as error:
            raise _UnreadableError(f"{source}: cannot be read ({error.strerror})") from error
        if not content:
            return
        copy.write(content)


def _check_copy(there: SweepFolder, here: SweepFolder, name: str, staged: str) -> None:
    """Refuse a copy that does not say what the original says now."""
    try:
        same = read_record(here, staged) == read_record(there, name) and read_spec(here, staged) == read_spec(
            there, name
        )
    except SweeperError as error:
        raise _UnreadableError(str(error)) from error
    if not same:
        raise _UnreadableError(f"{there.run(name)}: it changed while it was copied; merge again")


def _end_attempts(here: SweepFolder, staged: str, there: SweepFolder) -> None:
    """Give an end to attempts that died without one: their processes cannot be asked after from here."""
    for attempt in read_attempts(here, staged):
        if attempt.end is None:
            end = End(state="stopped", reason=f"it ended without a word in {there.path}, and goes on here")
            write_end(here, staged, attempt.number, end)


def _put_in_place(here: SweepFolder, staged: str, name: str) -> None:
    """Rename the staged run to its place; where we have begun it ourselves, put theirs after ours, its record last."""
    if _renamed(here.run(staged), here.run(name)):
        return
    stage, target = here.run(staged), here.run(name)
    finished = (stage / "record.json").exists()
    if not finished:
        _renamed(stage / "checkpoint", target / "checkpoint")
    known = {attempt.owner for attempt in read_attempts(here, name)}
    for attempt in read_attempts(here, staged):
        if attempt.owner not in known:
            _append_attempt(here, here.attempt(staged, attempt.number), name)
    if finished:
        _renamed(stage / "record.json", target / "record.json")
        shutil.rmtree(target / "checkpoint", ignore_errors=True)  # the run is finished: nothing resumes from ours
        _renamed(stage / "checkpoint", target / "checkpoint")


def _append_attempt(here: SweepFolder, path: Path, name: str) -> None:
    """Number an attempt after those that we have; readers of metrics let the later one win."""
    number = 1 + max((attempt.number for attempt in read_attempts(here, name)), default=0)
    while path.exists() and not _renamed(path, here.attempt(name, number)):
        number += 1  # somebody claimed it meanwhile


def _renamed(source: Path, target: Path) -> bool:
    """Whether a file or folder took its place; False where a folder with content is in it, or there is no source."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        raise DiskError(f"{target}: cannot be written ({error.strerror}); mend the folder and merge again") from error
    return True


def _clear(here: SweepFolder) -> None:
    """Remove what a merge left that was killed."""
    for left in (here.path / "runs").glob(f".*{SUFFIX}"):
        shutil.rmtree(left, ignore_errors=True)
