"""Which runs to add to a table of results: the rates of each group, the cells that they are, and what they cost."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from model.shape import model_shape
from sweeper.analysis.optima import optima_of
from sweeper.analysis.question import separate_arms
from sweeper.errors import FitError, TableError
from sweeper.fits.design import TOLERANCE, Suggestion, suggest_rates
from sweeper.fits.extrapolation import UNKNOWN_SD, extrapolate
from sweeper.fits.losses import Key
from sweeper.fits.optimum import Optimum
from sweeper.spec import Question, RunSpec
from sweeper.suggestions import SuggestedCell, cells_at, kin
from sweeper.table import Table, lr_column, numbers, split


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestedRuns:
    """What to run next in one group."""

    suggestion: Suggestion
    flops: float | None
    """Cost of these runs; None where neither the sweep nor the table tells."""
    cells: tuple[SuggestedCell, ...]
    """The cells of the sweep that they are; none for a file."""
    waiting: int
    """Cells of the group that have no result yet: nothing is suggested before they have."""
    affordable: bool = True
    """Whether they fit the budget."""

    @property
    def pending(self) -> bool:
        """Whether there is something to run."""
        return bool(self.suggestion.lrs) and self.affordable and not self.waiting


def suggest_question(
    table: Table,
    question: Question,
    *,
    specs: Sequence[RunSpec] = (),
    tolerance: float = TOLERANCE,
    budget: float | None = None,
    lr: str = "",
    loss: str = "loss",
) -> tuple[SuggestedRuns, ...]:
    """The next runs of each group of a question.

    Under a budget, groups without an optimum come first, the cheapest before the dearest; then those whose interval
    shrinks most per FLOP.

    Args:
        table: One row per run.
        question: Its groups.
        specs: The cells of the sweep, finished or not; none for a file.
        tolerance: Half width of the interval, octaves, that is narrow enough.
        budget: FLOPs at hand; None for no limit.
        lr: Column of the rate; `lr_peak`, else `lr`, when empty.
        loss: Column of the loss.

    Raises:
        TableError: No rows, or a column is missing.
        FitError: A budget is given, but the cost of a run is not known.
    """
    if table.empty:
        raise TableError("the table has no runs; launch the sweep, or give a file with one row per run")
    question = separate_arms(table, question)
    rate = lr or lr_column(table)
    by = tuple(dict.fromkeys((*question.per, *question.by)))
    runs, optima = optima_of(table, replace(question, laws=(), curves=()), lr=rate, loss=loss)
    if runs is None or not optima:
        raise FitError(f"none of the {len(table)} runs has a value of {' and '.join(by)}")
    suggestions = suggest_rates(runs, by, tolerance=tolerance, centres=[_centre(o, optima, question) for o in optima])
    parts = {tuple(key.values()): part for key, part in split(table, by)}
    cells = _Cells.of(specs)
    found = tuple(
        _of_group(suggestion, parts[tuple(suggestion.group.values())], cells, rate) for suggestion in suggestions
    )
    return found if budget is None else _within(found, budget)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cells:
    """The cells of a sweep, found by a run of theirs, or by what those that differ in their rate alone share."""

    by_run: Mapping[tuple[str, str], tuple[int, RunSpec]]
    """With its place in the sweep, by arm and run_id."""
    by_kin: Mapping[tuple[object, ...], Sequence[tuple[str, str]]]
    """Arm and run_id of each."""

    @classmethod
    def of(cls, specs: Sequence[RunSpec]) -> "_Cells":
        by_kin: dict[tuple[object, ...], list[tuple[str, str]]] = defaultdict(list)
        for spec in specs:
            by_kin[kin(spec)].append((spec.arm, spec.run_id))
        return cls(by_run={(s.arm, s.run_id): (place, s) for place, s in enumerate(specs)}, by_kin=by_kin)


def _of_group(suggestion: Suggestion, rows: Table, cells: _Cells, rate: str) -> SuggestedRuns:
    there = {*zip(rows["arm"], rows["run_id"], strict=True)} if cells.by_run and "run_id" in rows.columns else set()
    known = sorted((cells.by_run[run] for run in there if run in cells.by_run), key=lambda found: found[0])
    own = {kin(spec): spec for _, spec in known}
    waiting = sum(run not in there for shared in own for run in cells.by_kin[shared])
    new: list[SuggestedCell] = []
    for peak in suggestion.lrs:
        new += cells_at(own.values(), peak) if rate == "lr_peak" else cells_at(own.values(), lr=peak)
    return SuggestedRuns(
        suggestion=suggestion, flops=_flops(suggestion, rows, tuple(own.values())), cells=tuple(new), waiting=waiting
    )


def _flops(suggestion: Suggestion, rows: Table, own: tuple[RunSpec, ...]) -> float | None:
    if own and all(spec.trainer.models for spec in own):
        each = sum(float(model_shape(spec.train.model).flops_per_token * spec.train.tokens) for spec in own)
    elif "flops" in rows.columns and np.isfinite(numbers(rows, "flops")).any():
        each = float(np.nanmedian(numbers(rows, "flops"))) * max(len(own), 1)
    else:
        return None
    return each * len(suggestion.lrs)


def _centre(optimum: Optimum, optima: tuple[Optimum, ...], question: Question) -> float | None:
    """What the law through the other groups of its setting says of a group that has no optimum of its own."""
    if optimum.settled or len(question.by) != 1 or isinstance(optimum.group[question.by[0]], str):
        return None
    (x,) = question.by
    alike = [o for o in optima if o.settled and all(o.group[name] == optimum.group[name] for name in question.per)]
    if len({o.group[x] for o in alike}) < 2:
        return None
    sds = np.array([o.log_sd or UNKNOWN_SD for o in alike])
    xs = np.array([float(o.group[x]) for o in alike])
    log_lr = np.log(np.array([o.lr for o in alike], dtype=np.float64))
    return float(np.exp(extrapolate(xs, log_lr, sds, float(optimum.group[x])).mean))


def _within(found: tuple[SuggestedRuns, ...], budget: float) -> tuple[SuggestedRuns, ...]:
    def urgency(row: SuggestedRuns) -> tuple[bool, float]:
        assert row.flops is not None  # noqa: S101  (checked below)
        now, then = row.suggestion.half_width, row.suggestion.expected
        return now is not None, row.flops if now is None or then is None else (then - now) / row.flops

    if any(row.pending and row.flops is None for row in found):
        raise FitError("--budget: the cost of these runs is not known; give the table a column flops, or leave it out")
    left, kept = budget, set()
    for place in sorted((i for i, row in enumerate(found) if row.pending), key=lambda i: urgency(found[i])):
        cost = found[place].flops or 0.0
        if cost <= left:
            left -= cost
            kept.add(place)
    return tuple(replace(row, affordable=i in kept or not row.pending) for i, row in enumerate(found))


def group_text(group: dict[str, Key]) -> str:
    """A group in one phrase for messages."""
    return ", ".join(f"{name} {value}" for name, value in group.items()) or "the only group"
