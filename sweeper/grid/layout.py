"""Every cell of a sweep laid out, completed and made a run."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from model.config import DataConfig, TrainConfig
from sweeper.errors import ConfigError
from sweeper.grid.axes import axis_values, check_zip, flat_grids, written
from sweeper.grid.computed import Cell, Configurations, base_value
from sweeper.grid.data import fingerprinted
from sweeper.grid.leaves import SEED, Leaf, leaf
from sweeper.grid.steps import ordered_steps
from sweeper.laws.transfer import rates
from sweeper.spec import Arm, Base, Grid, RunSpec, Sweep, Value, run_id

MAX_CELLS = 1_000_000
"""Ten times the largest sweep that planning is built for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """The runs of a sweep, and how many cells were laid out but are not among them."""

    specs: tuple[RunSpec, ...]
    constrained: int
    """Cells that a `where` refused."""
    duplicates: int
    """Cells that repeat a run of their own arm."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user may not expect, one sentence each."""
        if not self.duplicates:
            return ()
        cells = "1 duplicate cell is" if self.duplicates == 1 else f"{self.duplicates:,} duplicate cells are"
        return (f"{cells} kept once: another cell asks for the same run",)


def expand(sweep: Sweep) -> tuple[RunSpec, ...]:
    """The runs of a sweep, arm after arm, in the order of its axes (the last varies fastest).

    Raises:
        ConfigError: A cell that its configuration refuses, values that do not fit their type, circular derived
            values, no cell at all, or more than `MAX_CELLS`.
        DataError: A cell names data that cannot be read.
    """
    return lay_out(sweep).specs


def lay_out(sweep: Sweep) -> Expansion:
    """The runs of a sweep as `expand` gives them, with the count of the cells left out.

    Raises:
        ConfigError, DataError: As `expand`.
    """
    layouts = [(arm, grid) for arm in sweep.arms for grid in flat_grids(arm.grid)]
    # Every run carries the same columns, also one whose part of a union leaves some of them at their base.
    labels = list(dict.fromkeys(target for _, grid in layouts for target in written(grid, f"sweep {sweep.name}")))
    runs: dict[tuple[str, str], RunSpec] = {}
    kept = constrained = 0
    parts = [_Layout(sweep=sweep.name, arm=arm, grid=grid, labels=labels) for arm, grid in layouts]
    check_size(sum(part.least_cells for part in parts), sweep.name)
    for part in parts:
        for specs, refused in part.rows():
            constrained += refused
            kept += len(specs)
            check_size(kept, sweep.name)
            for spec in specs:
                runs.setdefault((spec.arm, spec.run_id), spec)
    if not runs:
        raise ConfigError(f"sweep {sweep.name}: where refuses every one of the {constrained} cells; loosen a condition")
    return Expansion(specs=tuple(runs.values()), constrained=constrained, duplicates=kept - len(runs))


def check_size(cells: int, sweep: str) -> None:
    """Refuse more cells than can be planned, rather than fill the memory without a word.

    Raises:
        ConfigError: More than `MAX_CELLS`.
    """
    if cells > MAX_CELLS:
        # Counted as they are laid out, they are only the first of more.
        known = cells >= 1.1 * MAX_CELLS
        size = f"{cells / 1e6:,.1f}M cells, more than {MAX_CELLS:,}" if known else f"more than {MAX_CELLS:,} cells"
        raise ConfigError(f"sweep {sweep}: the grid has {size}; split the sweep or shorten an axis")


class _Layout:
    """The cells of one flat grid over one arm; a class, because its caches live as long as it."""

    def __init__(self, *, sweep: str, arm: Arm, grid: Grid, labels: Sequence[Leaf]) -> None:
        self.where = f"sweep {sweep}"
        self.sweep, self.arm, self.base = sweep, arm, arm.base
        self.labels = [(target.label, target.writes[-1]) for target in labels]
        self.repeat, self.conditions = grid.repeat, bool(grid.where)
        self.factors = _factors(grid, self.base, self.where)
        self.steps = ordered_steps(grid, self.where, dict(arm.base.trainer.values))
        paths = {path for target in written(grid, self.where) for path in target.writes}
        if grid.repeat > 1:
            paths.update(SEED.writes)
        self.made = Configurations(self.base, paths)
        self.fingerprints: dict[tuple[DataConfig, int], DataConfig] = {}
        paths.update(path for _, path in self.labels)
        paths.update(path for step in self.steps for path in step.reads)
        paths.update(("lr", "tokens", "batch_tokens", "precision"))
        try:
            self.start: Cell = {path: base_value(self.base, path) for path in paths} | {"arm": arm.name}
        except ConfigError as error:
            raise ConfigError(f"{self.where}, arm {arm.name}: {error}") from error

    @property
    def least_cells(self) -> int:
        """Cells that are certainly walked through: derived lists add to them, and conditions may precede a repeat."""
        rows = math.prod(len(rows) for _, rows in self.factors)
        return max(rows, self.repeat) if self.conditions else rows * self.repeat

    def rows(self) -> Iterator[tuple[list[RunSpec], int]]:
        """For each row of the product, the runs that it becomes and the number of cells that conditions refused."""
        keys = [key for keys, _ in self.factors for key in keys]
        for rows in itertools.product(*(rows for _, rows in self.factors)):
            cell = self.start.copy()
            cell.update(zip(keys, itertools.chain.from_iterable(rows), strict=True))
            complete, refused = self._completed(cell)
            yield [self._spec(each) for each in complete], refused

    def _completed(self, cell: Cell) -> tuple[Sequence[Cell], int]:
        """The cells that the steps make of one, and how many of them a condition refused."""
        pending, refused = [cell], 0
        for step in self.steps:
            grown: list[Cell] = []
            for each in pending:
                try:
                    for name, computed in step.computed:
                        each[name] = computed.value(self.made, each)
                except ValueError as error:
                    raise ConfigError(f"{self._place(each)}: {error}") from error
                grown.extend(step.apply(each))
                check_size(len(grown), self.sweep)
            if not step.writes:
                refused += len(pending) - len(grown)
            pending = grown
        return pending, refused

    def _spec(self, cell: Cell) -> RunSpec:
        section, lr = self.made.section, cell["lr"]
        tokens, batch_tokens = cell["tokens"], cell["batch_tokens"]
        try:
            model, optimizer, transfer = section("model", cell), section("optimizer", cell), section("transfer", cell)
            train = TrainConfig(
                model=model,
                optimizer=optimizer,
                schedule=section("schedule", cell),
                data=self._data(cell),
                evaluation=section("evaluation", cell),
                seed=section("seed", cell),
                rates=rates(
                    transfer,
                    lr=lr,
                    depth=model.depth,
                    tokens=tokens,
                    batch_tokens=batch_tokens,
                    weight_decay=optimizer.weight_decay,
                ),
                tokens=tokens,
                batch_tokens=batch_tokens,
                precision=cell["precision"],
            )
        except ValueError as error:
            raise ConfigError(f"{self._place(cell)}: {error}") from error
        trainer = section("trainer", cell)
        return RunSpec(
            run_id=run_id(lr, train, trainer),
            sweep=self.sweep,
            arm=self.arm.name,
            axes=tuple([(label, cell[path]) for label, path in self.labels]),
            lr=lr,
            transfer=transfer,
            train=train,
            trainer=trainer,
        )

    def _data(self, cell: Cell) -> DataConfig:
        if not self.made.written["data"] and "model.vocab" not in self.made.written["model"]:
            return self.base.data
        if self.base.trainer.kind == "command" and not self.base.data.fingerprint:
            data: DataConfig = self.made.section("data", cell)
            return data  # the command's own affair
        key = (self.made.section("data", cell), self.made.section("model", cell).vocab)
        if key not in self.fingerprints:
            self.fingerprints[key] = fingerprinted(*key, self._place(cell))
        return self.fingerprints[key]

    def _place(self, cell: Cell) -> str:
        values = ", ".join(f"{label}={cell[path]}" for label, path in self.labels)
        return f"{self.where}, arm {self.arm.name}, cell {values}" if values else f"{self.where}, arm {self.arm.name}"


def _factors(grid: Grid, base: Base, where: str) -> list[tuple[tuple[str, ...], list[tuple[Value, ...]]]]:
    """Of each axis and zip the paths that it sets, and its rows of values for them."""
    factors = []
    for part, group in [*(("axes", (entry,)) for entry in grid.axes), *(("zip", group) for group in grid.zip)]:
        columns = [
            (leaf(key, f"{where}: {part}"), axis_values(key, entry, base, f"{where}: {part}.{key}"))
            for key, entry in group
        ]
        check_zip([(target.label, len(values)) for target, values in columns], f"{where}: {part}")
        keys = tuple(path for target, _ in columns for path in target.writes)
        rows = [
            tuple(value for (target, _), value in zip(columns, row, strict=True) for _ in target.writes)
            for row in zip(*(values for _, values in columns), strict=True)
        ]
        factors.append((keys, rows))
    return factors


def at_rate(spec: RunSpec, lr: float) -> RunSpec:
    """The run that differs from another in its base learning rate alone.

    Raises:
        ValueError: A rate that is not positive, or a peak beyond the floats.
    """
    train = spec.train
    peaks = rates(
        spec.transfer,
        lr=lr,
        depth=train.model.depth,
        tokens=train.tokens,
        batch_tokens=train.batch_tokens,
        weight_decay=train.optimizer.weight_decay,
    )
    moved = replace(train, rates=peaks)
    return replace(
        spec,
        run_id=run_id(lr, moved, spec.trainer),
        axes=tuple((name, lr if name == "lr" else value) for name, value in spec.axes),
        lr=lr,
        train=moved,
    )
