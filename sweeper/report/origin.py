"""Where the results of a report come from, as the folder of their sweep tells it: the only part that reads a disk."""

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import sweeper
from sweeper.plan import Totals, make_plan
from sweeper.records import RunRecord, SweepFolder, read_attempts, read_json
from sweeper.spec import RunSpec, Sweep
from sweeper.status import State

TOOLS = ("numpy", "scipy", "pandas", "matplotlib")
"""What computes and draws a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """One fact of the runs' provenance with the number of runs that it holds for."""

    fact: str
    value: str
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A sweep as it was asked for and as it was carried out."""

    name: str
    title: str
    folder: Path
    resolved: str
    """The composed configuration, YAML."""
    notes: tuple[str, ...]
    """What overrides did to the grid."""
    totals: Totals
    """Of the plan, priced for `device`."""
    device: str
    done: int
    diverged: int
    missing: tuple[RunSpec, ...]
    """Cells without a result."""
    device_s: float
    """Device-seconds that the finished runs took."""
    tallies: tuple[Tally, ...]
    first: datetime | None
    """When the first attempt of a result began; None where no provenance tells."""
    last: datetime | None
    unknown: int
    """Results whose attempts left no provenance."""


def read_origin(
    sweep: Sweep, specs: Sequence[RunSpec], folder: SweepFolder, records: Mapping[str, RunRecord]
) -> Origin:
    """The origin of a sweep's results, from its records and the provenance of the attempts that made them.

    No scheduler is asked: a report is about results, wherever their folder was copied to.

    Raises:
        SweeperError: A provenance cannot be read.
    """
    asked = {spec.run_id: spec for spec in specs}
    records = {run_id: record for run_id, record in records.items() if run_id in asked}
    states: dict[str, State] = dict.fromkeys(asked, "new")
    states |= {run_id: record.state for run_id, record in records.items()}
    plan = make_plan(sweep.name, specs, states, sweep.cluster, sweep.execution)
    found = [made for run_id in records if (made := _provenance(folder, run_id)) is not None]
    times = sorted(datetime.fromisoformat(made.time).astimezone(UTC) for made in found if made.time)
    return Origin(
        name=sweep.name,
        title=sweep.title,
        folder=folder.path,
        resolved=sweep.resolved,
        notes=sweep.notes,
        totals=plan.totals,
        device=plan.device,
        done=sum(record.state == "done" for record in records.values()),
        diverged=sum(record.state == "diverged" for record in records.values()),
        missing=tuple(spec for run_id, spec in asked.items() if run_id not in records),
        device_s=sum(record.wall_time_s * record.world_size / record.stack for record in records.values()),
        tallies=_tallies(found, records),
        first=times[0] if times else None,
        last=times[-1] if times else None,
        unknown=len(records) - len(found),
    )


def tool_versions() -> dict[str, str]:
    """The versions of what writes a report here."""
    return {
        "sweeper": sweeper.__version__,
        "Python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in TOOLS},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Provenance:
    """What is read of an attempt's provenance.json; older ones may lack any of it."""

    time: str = ""
    host: str = ""
    code: str = ""
    version: str = ""
    git_commit: str = ""
    git_dirty: bool = False
    python: str = ""
    platform: str = ""
    world_size: int = 1
    packages: Mapping[str, str] = field(default_factory=dict)


def _provenance(folder: SweepFolder, run_id: str) -> _Provenance | None:
    """Of the last attempt, which made the record."""
    attempts = read_attempts(folder, run_id)
    if not attempts:
        return None
    return read_json(folder.attempt(run_id, attempts[-1].number) / "provenance.json", _Provenance)


def _tallies(found: Sequence[_Provenance], records: Mapping[str, RunRecord]) -> tuple[Tally, ...]:
    """Each fact with each of its values, the most frequent first."""
    facts: dict[str, list[str]] = {
        "code": [made.code for made in found],
        "git commit": [
            made.git_commit[:12] + (" with uncommitted changes" if made.git_dirty else "")
            for made in found
            if made.git_commit
        ],
        "sweeper": [made.version for made in found],
        "Python": [made.python for made in found],
    }
    for package in dict.fromkeys(name for made in found for name in made.packages):
        facts[package] = [made.packages.get(package, "") for made in found]
    facts |= {
        "machine": [made.host for made in found],
        "system": [made.platform for made in found],
        "device": [record.device for record in records.values()],
        "processes": [str(record.world_size) for record in records.values()],
        "data": [record.fingerprint for record in records.values()],
    }
    return tuple(
        Tally(fact=fact, value=value, runs=runs)
        for fact, values in facts.items()
        for value, runs in sorted(Counter(filter(None, values)).items(), key=lambda item: (-item[1], item[0]))
    )
