"""What people and `tend` decided about runs and nodes."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sweeper.records.attempts import Attempt, read_attempts
from sweeper.records.folder import SweepFolder, read_json, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A run that nobody is to start, until `retry` or `launch` asks for it."""

    reason: str
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """When somebody last asked for a run again."""

    time: float
    attempts: int = 0
    """Its attempts until then: they no longer count."""


def hold_run(folder: SweepFolder, run_id: str, reason: str) -> None:
    """Keep a run from being started."""
    write_json(folder.run(run_id) / "held.json", Held(reason=reason, time=time.time()))


def renew_run(folder: SweepFolder, run_id: str) -> None:
    """Let a run be started again, with all its attempts before it."""
    (folder.run(run_id) / "held.json").unlink(missing_ok=True)
    attempts = read_attempts(folder, run_id)
    last = attempts[-1].number if attempts else 0
    write_json(folder.run(run_id) / "retry.json", Renewed(time=time.time(), attempts=last))


def read_held(folder: SweepFolder, run_id: str) -> Held | None:
    """Why and since when a run is held; None for one that is not."""
    return read_json(folder.run(run_id) / "held.json", Held)


def is_held(folder: SweepFolder, run_id: str) -> bool:
    return (folder.run(run_id) / "held.json").exists()


def counted_attempts(folder: SweepFolder, run_id: str) -> tuple[Attempt, ...]:
    """The attempts since somebody last asked for the run: those that its limits count."""
    attempts = read_attempts(folder, run_id)
    renewed = read_renewed(folder, run_id)
    return attempts if renewed is None else tuple(a for a in attempts if a.number > renewed.attempts)


def read_renewed(folder: SweepFolder, run_id: str) -> Renewed | None:
    """When somebody last asked for a run again; None if nobody did."""
    return read_json(folder.run(run_id) / "retry.json", Renewed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludedNode:
    """A node that no job of the sweep may use."""

    node: str
    reason: str
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludedNodes:
    nodes: tuple[ExcludedNode, ...] = ()
    cleared: Mapping[str, float] = field(default_factory=dict)
    """When a person last cleared a node, seconds since the epoch: what happened there before no longer counts."""


def read_excluded(folder: SweepFolder) -> tuple[ExcludedNode, ...]:
    """The nodes that the sweep avoids."""
    found = read_json(folder.path / "exclude.json", ExcludedNodes)
    return found.nodes if found else ()


def write_excluded(folder: SweepFolder, nodes: Iterable[ExcludedNode]) -> None:
    write_json(folder.path / "exclude.json", ExcludedNodes(nodes=tuple(nodes), cleared=read_cleared(folder)))


def read_cleared(folder: SweepFolder) -> Mapping[str, float]:
    """When each node that was once excluded was last cleared, seconds since the epoch."""
    found = read_json(folder.path / "exclude.json", ExcludedNodes)
    return found.cleared if found else {}


def clear_excluded(folder: SweepFolder, names: Iterable[str]) -> None:
    """Let jobs use nodes again."""
    chosen = dict.fromkeys(names, time.time())
    kept = tuple(node for node in read_excluded(folder) if node.node not in chosen)
    write_json(folder.path / "exclude.json", ExcludedNodes(nodes=kept, cleared={**read_cleared(folder), **chosen}))
