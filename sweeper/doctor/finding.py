"""What a probe found, and probes that never hang."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from sweeper.errors import SweeperError
from sweeper.slurm import SlurmError

Level = Literal["ok", "warning", "problem"]
"""A warning costs time or comfort; with a problem runs fail, or results are lost."""
Area = Literal["python", "slurm", "profile", "folder", "script", "job"]
LEVELS: tuple[Level, ...] = ("ok", "warning", "problem")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One sentence about one thing that was looked at."""

    area: Area
    probe: str
    """Its name, the same whatever is found."""
    level: Level
    says: str
    value: str = ""
    """What was seen."""
    remedy: str = ""
    """What to type or set next; empty where nothing needs to be done."""


def ok(area: Area, probe: str, says: str, value: str = "") -> Finding:
    """A finding that asks for nothing."""
    return Finding(area=area, probe=probe, level="ok", says=says, value=value)


def warning(area: Area, probe: str, says: str, remedy: str, value: str = "") -> Finding:
    """A finding that costs time or comfort."""
    return Finding(area=area, probe=probe, level="warning", says=says, value=value, remedy=remedy)


def problem(area: Area, probe: str, says: str, remedy: str, value: str = "") -> Finding:
    """A finding with which runs fail or results are lost."""
    return Finding(area=area, probe=probe, level="problem", says=says, value=value, remedy=remedy)


def within(
    seconds: float, area: Area, probe: str, look: Callable[[], Finding | Iterable[Finding]], remedy: str
) -> tuple[Finding, ...]:
    """What a probe finds, or the problem that it cannot be carried out in time; a filesystem may never answer."""
    found: list[tuple[Finding, ...]] = []
    failed: list[BaseException] = []

    def carry_out() -> None:
        try:
            seen = look()
            found.append((seen,) if isinstance(seen, Finding) else tuple(seen))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=carry_out, daemon=True, name=f"probe of {probe}")
    thread.start()
    thread.join(seconds)
    if found:
        return found[0]
    if not failed:
        return (problem(area, probe, f"no answer within {seconds:.0f} s", remedy),)
    if isinstance(failed[0], SlurmError | SweeperError | OSError):
        return (problem(area, probe, f"cannot be probed: {failed[0]}", remedy),)
    raise failed[0]
