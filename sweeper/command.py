"""On the node: a run that a command of the user's own trains; starts it, follows it, passes signals on; no torch."""

import ctypes
import json
import logging
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import psutil

import sweeper
from sweeper.arguments import arguments
from sweeper.errors import ConfigError, SweeperError
from sweeper.spec import RunSpec, Value
from sweeper.typed import build, plain

POLL_S = 0.1
KILL_TIMEOUT_S = 10.0
"""How long a killed process may take to go; one that waits for a disk cannot be hurried."""
SHARED_POLL_S = 1.0
"""Between looks at what another node may have written: a shared filesystem is not asked ten times a second."""
TAIL_LINES = 20
"""Lines of output that tell why a command failed."""
TAIL_SHARE = 0.05
"""The last share of the steps whose losses are averaged into `train_loss`."""
RANKED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What tells a process its place; torchrun gives its own to the processes that it starts."""

log = logging.getLogger("sweeper.command")


class Observer(Protocol):
    """Who is told how a run goes; called on rank 0 only."""

    def metrics(self, member: int, row: Mapping[str, float]) -> None:
        """A line that the command reported."""

    def progress(self, member: int, step: int, steps: int, tokens_per_s: float) -> None:
        """A sign of life of the worker, with the last step that the command reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOutcome:
    """How a run ended that did not fail; what the command did not report is NaN or None."""

    state: Literal["done", "diverged", "stopped"]
    loss: float
    train_loss: float
    steps: int
    tokens: int
    wall_time_s: float
    """Of this attempt, unless the command reports its own."""
    tokens_per_s: float
    reason: str = ""
    device: str = ""
    params: int | None = None
    params_total: int | None = None
    flops: float | None = None
    extra: Mapping[str, Value] = field(default_factory=dict)
    """What else it reported: columns of the results."""


class CommandError(SweeperError):
    """A command that ended without a result, or could not be started."""

    def __init__(self, reason: str, *, detail: str = "", killed: bool = False) -> None:
        super().__init__(reason)
        self.detail = detail
        """The last lines of its output."""
        self.killed = killed
        """Whether a signal ended it (out of memory, a node that goes): worth another attempt."""


def run_command(
    spec: RunSpec,
    *,
    home: Path,
    run_folder: Path,
    attempt: int,
    rank: int,
    world_size: int,
    observer: Observer,
    stop: Callable[[], bool],
    local_rank: int = 0,
) -> CommandOutcome:
    """Carry out an attempt at a run whose trainer is a command, as one of `world_size` processes.

    Args:
        home: Folder of the attempt; output, metrics and result lie there.
        run_folder: Folder of the run, with spec.json and the checkpoints.
        attempt: Its number, from 1.
        observer: Told of the command's metrics and of progress, on rank 0.
        stop: Asked ten times a second; once true on any rank, every command is asked to end and has `grace_s` for it.
        local_rank: Among the processes of its node, of which the first starts a command that is there per job. The
            LOCAL_RANK of the environment numbers GPUs: 0 on each process that is bound to one.

    Returns:
        The outcome, of which only that of rank 0 counts.

    Raises:
        CommandError: It cannot be started, exits with another code than 0, dies of a signal that was not ours, or its
            result is missing or invalid.
    """
    home, run_folder = home.resolve(), run_folder.resolve()
    paths = _Paths.of(home, run_folder)
    over = home / "command.over"
    if spec.trainer.per == "job" and local_rank != 0:
        _wait_for(over, home / "stopping", stop)
        return _outcome_of_another(spec)
    marks = {
        "SWEEPER_RUN_ID": spec.run_id,
        "SWEEPER_CHECKPOINTS": str(paths.checkpoints),
        "SWEEPER_ATTEMPT": str(attempt),
        "SWEEPER_TASK": str(rank),
    }
    _end_earlier_attempts(paths.checkpoints, attempt)
    paths.checkpoints.mkdir(parents=True, exist_ok=True)
    environment = _environment(spec, rank, world_size) | marks | paths.environment
    places = {name: str(getattr(paths, name)) for name in ("run", "spec", "result", "metrics", "checkpoints")}
    words = arguments(spec, {**places, "python": sys.executable})
    output = home / ("output.log" if rank == 0 else f"output.{rank}.log")
    stopping = _Stopping(stop, home / "stopping" if world_size > 1 else None)
    reported = Reported(paths.metrics, spec, observer) if rank == 0 else None
    try:
        ended = _carry_out(words, environment, output, spec, stopping, reported, marks)
        return _judged(ended, spec, paths.result, output, reported)
    finally:
        if spec.trainer.per == "job" and rank == 0:
            over.touch()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Paths:
    """The files of one attempt that its command knows."""

    run: Path
    spec: Path
    result: Path
    metrics: Path
    checkpoints: Path

    @classmethod
    def of(cls, home: Path, run: Path) -> "_Paths":
        return cls(
            run=run,
            spec=run / "spec.json",
            result=home / "result.json",
            metrics=home / "command.jsonl",
            checkpoints=run / "checkpoint",
        )

    @property
    def environment(self) -> dict[str, str]:
        return {
            "SWEEPER_SPEC": str(self.spec),
            "SWEEPER_RESULT": str(self.result),
            "SWEEPER_METRICS": str(self.metrics),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """How a command's process ended."""

    code: int
    """As `subprocess` gives it: negative for a signal."""
    stopped: bool
    """Whether it had been asked to."""
    killed: bool
    """Whether its time for that ran out."""
    wall_time_s: float


# ── the process ────────────────────────────────────────────────────────────────────────────────────────────────────


def _environment(spec: RunSpec, rank: int, world_size: int) -> dict[str, str]:
    """The worker's environment without what serves this package alone; for torchrun, its own names of the places."""
    environment = dict(os.environ)
    ours = Path(sweeper.__file__).resolve().parent.parent
    paths = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
    theirs = [part for part in paths if Path(part).resolve() != ours]
    if theirs != paths:
        # The frozen copy of this package comes first for its workers; a command's own modules must not give way to it.
        environment.pop("PYTHONSAFEPATH", None)
        environment["PYTHONPATH"] = os.pathsep.join(theirs)
        if not theirs:
            del environment["PYTHONPATH"]
    if spec.trainer.per == "job":
        local = int(environment.get("LOCAL_WORLD_SIZE", world_size))
        nodes = max(1, world_size // local)
        places = {"PET_NPROC_PER_NODE": str(local), "PET_NNODES": str(nodes), "PET_NODE_RANK": str(rank // local)}
        if nodes == 1:
            places["PET_STANDALONE"] = "1"  # a free port: several runs may share the machine
        else:
            names = ("MASTER_ADDR", "MASTER_PORT")
            places |= {f"PET_{name}": environment[name] for name in names if name in environment}
        environment = {name: value for name, value in environment.items() if name not in RANKED} | places
    return environment


class _Stopping:
    """Whether to stop: as this process is asked, or another one of the run; a class, because it remembers."""

    def __init__(self, stop: Callable[[], bool], shared: Path | None) -> None:
        self.stop, self.shared = stop, shared
        self.asked, self.next_look = False, 0.0

    def __call__(self) -> bool:
        if self.asked:
            return True
        if self.stop():
            self.asked = True
            if self.shared is not None:
                _touch(self.shared)
        elif self.shared is not None and time.monotonic() >= self.next_look:
            self.next_look = time.monotonic() + SHARED_POLL_S
            self.asked = _is_there(self.shared)
        return self.asked


def _touch(path: Path) -> None:
    """Tell the others, unless the disk takes nothing: then each hears of it from the scheduler alone."""
    with suppress(OSError):
        path.touch()


def _is_there(path: Path) -> bool:
    """Whether a file is known to be there; a disk that is away for a moment is asked again at the next look."""
    try:
        return path.exists()
    except OSError:
        return False


def _carry_out(
    words: tuple[str, ...],
    environment: Mapping[str, str],
    output: Path,
    spec: RunSpec,
    stopping: _Stopping,
    reported: "Reported | None",
    marks: Mapping[str, str],
) -> _Ended:
    """Start the command and follow it until it and whatever it started are gone."""
    began = time.monotonic()
    with output.open("ab") as file:
        process = _started(words, environment, file.fileno(), spec.trainer.directory, spec.trainer.signal)
    log.info("started %s as process %d", shlex.join(words), process.pid)
    asked: float | None = None
    passed_on = killed = False
    try:
        while process.poll() is None or (asked is not None and _group_lives(process.pid)):
            if reported is not None:
                reported.look()
            if asked is None and stopping():
                asked = time.monotonic()
                log.info("%s to process %d, which has %g s", spec.trainer.signal, process.pid, spec.trainer.grace_s)
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.Signals[spec.trainer.signal])
            elif asked is not None and process.returncode is not None and not passed_on:
                # A shell that died of the signal without passing it on leaves the program that it had started.
                passed_on = True
                _signal_group(process.pid, signal.Signals[spec.trainer.signal])
            if asked is not None and time.monotonic() - asked > spec.trainer.grace_s:
                killed = True
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=POLL_S)
            if process.returncode is not None and asked is not None:
                time.sleep(POLL_S)
    finally:
        _end_all(process, marks)
    if reported is not None:
        reported.look(last=True)
    # SLURM signals the processes of a step one by one: the command may have ended before its worker saw the request.
    stopped = asked is not None or stopping()
    return _Ended(code=process.returncode, stopped=stopped, killed=killed, wall_time_s=time.monotonic() - began)


def _started(
    words: tuple[str, ...], environment: Mapping[str, str], output: int, folder: str, told: str
) -> subprocess.Popen[bytes]:
    """The command as the leader of a session of its own.

    Raises:
        CommandError: No such program or folder, or one that may not be run.
    """
    if folder and not Path(folder).is_dir():
        raise CommandError(f"trainer.directory {folder!r} is no folder on this node; name one that all nodes see")
    try:
        return subprocess.Popen(
            words,
            cwd=folder or None,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(_as_child, told),
        )
    except OSError as error:
        hint = "name a program on the PATH of the node, or its absolute path"
        raise CommandError(f"cannot start {words[0]!r} ({error.strerror or error}); {hint}") from error


_libc = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
"""linux/prctl.h: the signal that a process gets when its parent dies."""


def _as_child(told: str) -> None:
    """In the child, before the program: it dies with its worker, and takes its signals (a launcher blocks some).

    SLURM sends its signals to every process of a step: those that are not the one that the program is `told` by would
    end it before it could write a checkpoint, and are ignored.
    """
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL if number.name == told else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _group_lives(leader: int) -> bool:
    return _signal_group(leader, 0)


def _signal_group(leader: int, number: int) -> bool:
    """Whether the group of a process still has members to signal."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _end_all(process: subprocess.Popen[bytes], marks: Mapping[str, str]) -> None:
    """Kill what is left of a command: its group, its descendants, and those whose parents are gone."""
    found: list[psutil.Process] = []
    with suppress(psutil.Error):
        found = psutil.Process(process.pid).children(recursive=True)
    found.extend(_marked(marks))
    _signal_group(process.pid, signal.SIGKILL)
    _kill(found)
    process.wait()


def _end_earlier_attempts(checkpoints: Path, attempt: int) -> None:
    """Kill what an earlier attempt left on this machine, so that no two write into one folder of checkpoints."""
    left = []
    for one in _marked({"SWEEPER_CHECKPOINTS": str(checkpoints)}):
        with suppress(psutil.Error, ValueError):
            if int(one.environ().get("SWEEPER_ATTEMPT", "0")) < attempt:
                log.warning("process %d of an earlier attempt still runs; killed", one.pid)
                left.append(one)
    _kill(left)


def _kill(processes: Sequence[psutil.Process]) -> None:
    """Kill processes and wait until they are gone, or zombies that their parents have yet to notice."""
    for one in processes:
        with suppress(psutil.Error):
            one.kill()
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while any(_lives(one) for one in processes) and time.monotonic() < deadline:
        time.sleep(POLL_S / 10)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _marked(marks: Mapping[str, str]) -> Iterator[psutil.Process]:
    """Processes of this machine, but for this one, whose environment says that they belong to a command."""
    for one in psutil.process_iter():
        with suppress(psutil.Error):
            environment = one.environ()
            if one.pid != os.getpid() and all(environment.get(name) == value for name, value in marks.items()):
                yield one


def _wait_for(over: Path, shared: Path, stop: Callable[[], bool]) -> None:
    """Wait for the command that the first process of the node started; pass on that this one was asked to stop."""
    while not _is_there(over):
        if stop():
            _touch(shared)
        time.sleep(SHARED_POLL_S)


# ── what it reports ────────────────────────────────────────────────────────────────────────────────────────────────


class Reported:
    """The lines that a command writes as it goes; a class, because it remembers how far it has read."""

    def __init__(self, path: Path, spec: RunSpec, observer: Observer) -> None:
        self.path, self.observer = path, observer
        self.step, self.steps = 0, spec.train.steps
        self.tokens_per_step = spec.train.tokens / spec.train.steps
        self.tokens_per_s = 0.0
        """As the command says, else measured between looks."""
        self.losses: list[tuple[int, float]] = []
        self._offset, self._rest = 0, b""
        self._first: tuple[int, float] | None = None
        self._unread, self._speaks = 0, False

    def look(self, *, last: bool = False) -> None:
        """Pass on what was written since the last look, and a sign of life."""
        before = self.step
        with suppress(OSError), self.path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
            self._offset += len(new)
            *whole, self._rest = (self._rest + new).split(b"\n")
            for line in whole:
                self._take(line)
        if last:
            self._take(self._rest)
            if self._unread:
                log.warning("%s: %d lines are no JSON objects and were passed over", self.path, self._unread)
        if self.step != before and not self._speaks:
            self._measure(time.monotonic())
        self.observer.progress(0, self.step, self.steps, self.tokens_per_s)

    def _measure(self, now: float) -> None:
        if self._first is None or self.step < self._first[0]:
            self._first = (self.step, now)
        else:
            step, then = self._first
            self.tokens_per_s = (self.step - step) * self.tokens_per_step / (now - then)

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            self._unread += 1
            return
        numbers = {str(key): float(value) for key, value in row.items() if _is_number(value)}
        if numbers.get("steps", 0) >= 1:
            self.steps = int(numbers["steps"])
        if "step" in numbers and math.isfinite(numbers["step"]):
            self._advance(int(numbers["step"]), numbers)
        self.observer.metrics(0, numbers)

    def _advance(self, step: int, numbers: Mapping[str, float]) -> None:
        self.step = step
        if "loss" in numbers:
            self.losses.append((step, numbers["loss"]))
        if "tokens_per_s" in numbers:
            self.tokens_per_s, self._speaks = numbers["tokens_per_s"], True

    @property
    def train_loss(self) -> float:
        """Mean of the losses that were reported for the last steps; NaN for none."""
        last = [loss for step, loss in self.losses if step > self.step - max(1, math.ceil(TAIL_SHARE * self.steps))]
        return math.fsum(last) / len(last) if last else math.nan


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """What `result.json` may say beside the loss and the columns of its own."""

    state: Literal["done", "diverged"] = "done"
    reason: str = ""
    train_loss: float | None = None
    steps: int | None = None
    tokens: int | None = None
    params: int | None = None
    params_total: int | None = None
    flops: float | None = None
    wall_time_s: float | None = None
    tokens_per_s: float | None = None
    device: str = ""
    loss: float | None = None
    """None for one that is not finite."""
    extra: Mapping[str, Value] = field(default_factory=dict)


def read_result(path: Path) -> _Result | None:
    """The result that a command wrote, or None where there is none.

    Raises:
        CommandError: It is no JSON object, lacks its loss, or holds a value of another type.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CommandError(f"{path}: not a readable result ({error}); write one JSON object") from error
    if not isinstance(values, dict):
        raise CommandError(f"{path}: expected an object such as {{'loss': 2.5}}, got {str(values)[:40]!r}")
    known = {name: value for name, value in values.items() if name in _RESULT_FIELDS and value is not None}
    if "loss" not in values and known.get("state") != "diverged":
        raise CommandError(f"{path}: the result has no loss; write {{'loss': …}}, with NaN for a run that diverged")
    known = {name: value for name, value in known.items() if not isinstance(value, float) or math.isfinite(value)}
    if "loss" not in known:
        if known.get("state") != "diverged":
            known.setdefault("reason", f"its loss is {values['loss']}")
        known["state"] = "diverged"
    extra = {name: value for name, value in values.items() if name not in _RESULT_FIELDS}
    try:
        return build(_Result, known | {"extra": _columns(extra)}, "", place=lambda name: f"{path}: {name}")
    except ConfigError as error:
        raise CommandError(str(error)) from error


_RESULT_FIELDS = frozenset(_Result.__slots__) - {"extra"}


def _columns(values: Mapping[str, Any]) -> dict[str, Value]:
    """Numbers, text and truths as they are, lists and objects as their JSON; null and NaN are left out."""
    made: dict[str, Value] = {}
    for name, value in values.items():
        if isinstance(value, list | dict):
            made[name] = json.dumps(plain(value))
        elif value is not None and not (isinstance(value, float) and not math.isfinite(value)):
            made[name] = value
    return made


# ── what it means ──────────────────────────────────────────────────────────────────────────────────────────────────


def _judged(ended: _Ended, spec: RunSpec, path: Path, output: Path, reported: Reported | None) -> CommandOutcome:
    """The outcome of a command that ended: a result, a stop, or `CommandError`."""
    if ended.code != 0 and not ended.stopped:
        raise _failure(ended, output)
    if reported is None:
        return _outcome_of_another(spec)
    result = read_result(path)
    if result is not None:
        return _outcome(result, spec, ended, reported)
    if ended.stopped:
        how = f"killed after {spec.trainer.grace_s:g} s" if ended.killed else "ended" + _with_code(ended.code)
        return _stopped(f"asked to stop; the command was at step {reported.step} and {how}", ended, reported)
    hint = "write it to {result} (SWEEPER_RESULT) before the program ends"
    raise CommandError(f"the command ended without a result; {hint}", detail=_last_lines(output))


def _with_code(code: int) -> str:
    return f" by {_signal_name(-code)}" if code < 0 else f" with code {code}" if code else ""


def _failure(ended: _Ended, output: Path) -> CommandError:
    detail = _last_lines(output)
    # A shell says 128 + n for a child that signal n ended.
    number = -ended.code if ended.code < 0 else ended.code - 128 if 128 < ended.code <= 128 + signal.SIGRTMAX else 0
    how = f"was killed by {_signal_name(number)}" if number else f"exited with code {ended.code}"
    last = detail.strip().rpartition("\n")[2].strip()[:200]
    said = f", last saying {last!r}" if last else ""
    return CommandError(f"the command {how}{said}; see {output}", detail=detail, killed=number > 0)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_lines(output: Path) -> str:
    with suppress(OSError), output.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
        text = file.read().decode(errors="replace")
        return "".join(text.splitlines(keepends=True)[-TAIL_LINES:])
    return ""


def _outcome(result: _Result, spec: RunSpec, ended: _Ended, reported: Reported) -> CommandOutcome:
    tokens = spec.train.tokens if result.tokens is None else result.tokens
    steps = spec.train.steps if result.state == "done" else reported.step
    wall_time_s = ended.wall_time_s if result.wall_time_s is None else result.wall_time_s
    speed = reported.tokens_per_s or tokens / max(wall_time_s, 1e-9)
    return CommandOutcome(
        state=result.state,
        loss=math.nan if result.loss is None else result.loss,
        train_loss=reported.train_loss if result.train_loss is None else result.train_loss,
        steps=steps if result.steps is None else result.steps,
        tokens=tokens,
        wall_time_s=wall_time_s,
        tokens_per_s=speed if result.tokens_per_s is None else result.tokens_per_s,
        reason=result.reason,
        device=result.device,
        params=result.params,
        params_total=result.params_total,
        flops=result.flops,
        extra=result.extra,
    )


def _stopped(reason: str, ended: _Ended, reported: Reported) -> CommandOutcome:
    return CommandOutcome(
        state="stopped",
        loss=math.nan,
        train_loss=reported.train_loss,
        steps=reported.step,
        tokens=int(reported.step * reported.tokens_per_step),
        wall_time_s=ended.wall_time_s,
        tokens_per_s=reported.tokens_per_s,
        reason=reason,
    )


def _outcome_of_another(spec: RunSpec) -> CommandOutcome:
    """What a process returns whose result rank 0 reads."""
    return CommandOutcome(
        state="done",
        loss=math.nan,
        train_loss=math.nan,
        steps=spec.train.steps,
        tokens=spec.train.tokens,
        wall_time_s=0.0,
        tokens_per_s=0.0,
    )
