"""What a run measured while it trained: its `metrics.jsonl`, all attempts as one series."""

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from sweeper.errors import DiskError
from sweeper.laws.arrays import FloatArray
from sweeper.records import SweepFolder
from sweeper.spec import RunSpec, Value

STABILITY = "stability/"
"""Prefix of metrics of stability, each with a layer's name behind it where it is of one layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The metrics of one run against its steps."""

    run_id: str
    labels: Mapping[str, Value]
    """What sets the run apart: its arm, rates, tokens and axes."""
    step: FloatArray
    """Ascending, shape (rows,)."""
    metrics: Mapping[str, FloatArray]
    """By name, NaN where a row has none, each of shape (rows,); a metric of layers is their mean."""
    damaged: int = field(default=0)
    """Lines that could not be read; the last line of an attempt that ended hard is not counted."""


def read_series(folder: SweepFolder, specs: Iterable[RunSpec], most: int | None = None) -> tuple[Series, ...]:
    """The series of the runs that have any, in the order of the specs; no more than the first `most` are read.

    Attempts overlap, since each goes on from a checkpoint: of a step that several reported, the last one counts.

    Raises:
        DiskError: A file is there but cannot be read.
    """
    found = (_read_run(folder, spec) for spec in specs)
    return tuple(itertools.islice((series for series in found if series is not None), most))


def _read_run(folder: SweepFolder, spec: RunSpec) -> Series | None:
    rows: dict[int, dict[str, float]] = {}
    damaged = 0
    attempts = folder.run(spec.run_id) / "attempts"
    try:
        numbers = sorted(int(path.name) for path in attempts.iterdir() if path.name.isdigit())
        for number in numbers:
            path = folder.attempt(spec.run_id, number) / "metrics.jsonl"
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
            for place, line in enumerate(lines):
                row = _row(line)
                if row is not None:
                    rows[int(row["step"])] = row
                elif line.strip() and place < len(lines) - 1:
                    damaged += 1
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DiskError(f"{attempts}: cannot be read ({error.strerror or error}); mend the disk, then again") from error
    if not rows:
        return None
    steps = sorted(rows)
    names = dict.fromkeys(name for step in steps for name in rows[step] if name != "step")
    return Series(
        run_id=spec.run_id,
        labels={
            "arm": spec.arm,
            "lr": spec.lr,
            "lr_peak": spec.lr_peak,
            "tokens": spec.train.tokens,
            **dict(spec.axes),
        },
        step=np.array(steps, dtype=np.float64),
        metrics={name: np.array([rows[step].get(name, math.nan) for step in steps]) for name in names},
        damaged=damaged,
    )


def _row(line: str) -> dict[str, float] | None:
    """The numbers of one line, layers averaged; None for what is no row."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    if not isinstance(values, dict) or not isinstance(values.get("step"), int | float):
        return None
    row: dict[str, float] = {}
    layers: dict[str, list[float]] = defaultdict(list)
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        metric, slash, _ = name.removeprefix(STABILITY).partition("/")
        if name.startswith(STABILITY) and slash:
            layers[STABILITY + metric].append(float(value))
        else:
            row[name] = float(value)
    # A mean that was reported as such wins over ours.
    return {name: float(np.mean(found)) for name, found in layers.items()} | row
