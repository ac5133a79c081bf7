"""From a sweep to its runs: axes, zips and unions laid out, derived values completed, constraints kept; pure.

Only a cell that changes what `data` reads touches the disk: its content is fingerprinted anew.
"""

import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from model.config import DataConfig, TrainConfig
from model.shape import ModelShape, model_shape
from sweeper.errors import ConfigError, DataError
from sweeper.expressions import Expression, compile_expression, holds
from sweeper.laws.transfer import predicted_lr, rates
from sweeper.spec import Arm, Base, Entry, Grid, RunSpec, Sweep, Value, run_id
from sweeper.typed import convert, did_you_mean, fields_of

WHOLE_FROM = 1000
"""From here on a count that an expression leaves fractional (tokens: 20.5 * params) goes to the nearest whole."""

Cell = dict[str, Any]
"""The values of one cell by path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One typed value that an axis may set."""

    path: str
    """`model.width`, `lr`; `seed` is both of its seeds."""
    kind: Any
    label: str
    """The shortest name that is no other leaf's: what users write and tables show."""
    writes: tuple[str, ...]
    """The paths it sets: its own, or both seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """The runs of a sweep, and how many cells were laid out but are not among them."""

    specs: tuple[RunSpec, ...]
    constrained: int
    """Cells that a `where` refused."""
    duplicates: int
    """Cells that repeat a run of their own arm."""


def expand(sweep: Sweep) -> tuple[RunSpec, ...]:
    """The runs of a sweep, arm after arm, in the order of its axes (the last varies fastest).

    Raises:
        ConfigError: A cell that its configuration refuses, values that do not fit their type, circular derived
            values, or no cell at all.
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
    labels = list(dict.fromkeys(leaf for _, grid in layouts for leaf in _written(grid, f"sweep {sweep.name}")))
    runs: dict[tuple[str, str], RunSpec] = {}
    cells = kept = 0
    for arm, grid in layouts:
        layout = _Layout(sweep=sweep.name, arm=arm, grid=grid, labels=labels)
        cells += layout.cells
        for spec in layout.specs():
            kept += 1
            runs.setdefault((spec.arm, spec.run_id), spec)
        cells += layout.expanded
    if not runs:
        raise ConfigError(f"sweep {sweep.name}: where refuses every one of the {cells} cells; loosen a condition")
    return Expansion(specs=tuple(runs.values()), constrained=cells - kept, duplicates=kept - len(runs))


def leaf(name: str, where: str, others: Iterable[str] = ()) -> Leaf:
    """The leaf that `name` means: `model.width`, or `width` where no other leaf is called so.

    A sweep's own keys (`lr`, `tokens`) come first, then the model's (`depth`), then any other unique name. `others`
    are further names that may have been meant.

    Raises:
        ConfigError: A name without a leaf, or with several.

    >>> leaf("width", "axes").path, leaf("optimizer.momentum", "axes").label
    ('model.width', 'momentum')
    """
    found = _NAMES.get(name)
    if found is not None:
        return found
    if name in _SECTIONS:
        raise ConfigError(
            f"{where}: {name!r} is a group of settings, not one value; name one of its settings "
            f"({name}.{next(iter(fields_of(_SECTIONS[name])))}) or compare whole groups as arms"
        )
    if name in _SHARED:
        raise ConfigError(f"{where}: {name!r} may be {' or '.join(_SHARED[name])}; write one of them in full")
    raise ConfigError(f"{where}: no setting {name!r}; {did_you_mean(name, [*_NAMES, *others])}")


def leaves() -> tuple[Leaf, ...]:
    """Every value that an axis may set."""
    return tuple(dict.fromkeys(_NAMES.values()))


def axis_values(key: str, entry: str | Iterable[Any], base: Base, where: str) -> tuple[Value, ...]:
    """The values of an axis, each of its leaf's type; an expression may read the values of `base`.

    A bare word on an axis of text is that word: `precision: "[float32, bfloat16]"`.

    Raises:
        ConfigError: No value at all, or one that does not fit.
    """
    target = leaf(key, where)
    if isinstance(entry, str):
        texts = target.kind is str or not isinstance(target.kind, type)
        expression = compile_expression(entry, where, (lambda name: name) if texts else _readable(where))
        if texts:
            scope: Mapping[str, Any] = {name: name for name in expression.names}
        else:
            scope = {name: _value(base, name) for name in expression.names if name not in _COMPUTED}
        if _COMPUTED.keys() & expression.names:
            raise ConfigError(
                f"{where}: {entry!r} reads {', '.join(sorted(_COMPUTED.keys() & expression.names))}, which differs "
                f"from cell to cell; write it as derive.{target.label}"
            )
        entry = expression(scope)
        entry = entry if isinstance(entry, list) else [entry]
    values = tuple(_typed(target, value, where) for value in entry)
    if not values:
        raise ConfigError(f"{where}: the axis is empty; give it at least one value, or remove it")
    return values


def flat_grids(grid: Grid) -> tuple[Grid, ...]:
    """The grid without unions: one grid per branch, with what it inherits.

    A branch is laid over its parent's axes and zips too; a key that it sets itself replaces the parent's. A branch
    without a repeat of its own takes its parent's.
    """
    if not grid.union:
        return (grid,)
    flat: list[Grid] = []
    for branch in grid.union:
        own = {leaf(key, "union").path for entries in (branch.axes, branch.derive, *branch.zip) for key, _ in entries}

        def inherited(entries: tuple[Entry, ...], own: set[str] = own) -> tuple[Entry, ...]:
            return tuple(entry for entry in entries if leaf(entry[0], "union").path not in own)

        zips = (inherited(group) for group in grid.zip)
        merged = Grid(
            axes=inherited(grid.axes) + branch.axes,
            zip=tuple(group for group in zips if group) + branch.zip,
            derive=inherited(grid.derive) + branch.derive,
            where=grid.where + branch.where,
            repeat=branch.repeat if branch.repeat > 1 else grid.repeat,
            union=branch.union,
        )
        flat.extend(flat_grids(merged))
    return tuple(flat)


def check_derived(expression: str, where: str) -> Expression:
    """The expression of a `derive` or `where`, its names resolved to paths.

    Raises:
        ConfigError: Bad syntax, or a name that is neither a setting nor a computed value.
    """
    return compile_expression(expression, where, _readable(where))


def check_layout(grid: Grid, where: str) -> None:
    """Refuse a grid that sets one leaf twice.

    Raises:
        ConfigError: A leaf among both axes and derived values, or in two zips.
    """
    for flat in flat_grids(grid):
        _written(flat, where)


def reads_its_base(target: str, expression: Expression) -> bool:
    """Whether a derived value depends on the value that it replaces, so that setting that value moves it."""
    return target in expression.names or (target == "lr" and "predicted_lr" in expression.names)


# The leaves of a base configuration and their names.

_SECTIONS: Mapping[str, type] = {
    name: cast(type, kind) for name, (kind, _) in fields_of(Base).items() if dataclasses.is_dataclass(kind)
}
_FULL_NAMES = ("transfer", "seed")
"""Sections whose labels keep the section's name: `transfer.depth` is a switch, `seed.init` half of `seed`."""


def _named_leaves() -> tuple[dict[str, Leaf], dict[str, list[str]]]:
    sections: dict[str, list[str]] = {}
    for section, kind in _SECTIONS.items():
        for name in fields_of(kind):
            if (section, name) != ("data", "fingerprint"):
                sections.setdefault(name, []).append(section)
    names = {
        name: Leaf(path=name, kind=kind, label=name, writes=(name,))
        for name, (kind, _) in fields_of(Base).items()
        if name not in _SECTIONS
    }
    names["seed"] = Leaf(path="seed", kind=int, label="seed", writes=("seed.init", "seed.data"))
    shared: dict[str, list[str]] = {"batch": ["batch_tokens", "transfer.batch"]}
    for name, owners in sections.items():
        owner = "model" if "model" in owners else owners[0] if len(owners) == 1 else ""
        short = bool(owner) and name not in names and name not in _SECTIONS and name not in shared
        for section in owners:
            path = f"{section}.{name}"
            label = name if short and section == owner and section not in _FULL_NAMES else path
            kind = fields_of(_SECTIONS[section])[name][0]
            names[path] = Leaf(path=path, kind=kind, label=label, writes=(path,))
        if short:
            names[name] = names[f"{owner}.{name}"]
        elif not owner:
            shared[name] = [f"{section}.{name}" for section in owners]
    return names, shared


_NAMES, _SHARED = _named_leaves()


def _value(base: Base, path: str) -> Any:
    return operator.attrgetter(path)(base)


def _readable(where: str) -> Callable[[str], str]:
    def resolve(name: str) -> str:
        if name in _COMPUTED or name == "arm":
            return name
        if name not in _NAMES and name not in _SHARED and name not in _SECTIONS:
            raise ConfigError(f"{where}: unknown name {name!r}; {did_you_mean(name, [*_NAMES, *_COMPUTED])}")
        return leaf(name, where).writes[-1]

    return resolve


def _typed(target: Leaf, value: Any, where: str) -> Value:
    if type(value) is float:
        # 12 digits, as in a run's identity: what is trained is what is named.
        value = float(f"{value:.12g}")
        if target.kind is int and abs(value) >= WHOLE_FROM and math.isfinite(value):
            value = round(value)
    elif isinstance(value, str) and target.kind in (int, float):
        # YAML writes 2*0.01 in a list as text.
        number = compile_expression(value, where)({})
        if not isinstance(number, str):
            return _typed(target, number, where)
    return cast(Value, value if type(value) is target.kind else convert(target.kind, value, where))


def _written(grid: Grid, where: str) -> list[Leaf]:
    """The leaves that a flat grid sets, in its order; a leaf set twice is refused."""
    places: dict[str, tuple[Leaf, str]] = {}
    for part, entries in [("axes", grid.axes), *(("zip", group) for group in grid.zip), ("derive", grid.derive)]:
        for key, _ in entries:
            target = leaf(key, f"{where}: {part}")
            taken = [other for path, other in places.items() if set(target.writes) & set(_NAMES[path].writes)]
            if taken:
                other, place = taken[0]
                both = target.label if target == other else f"{other.label} and {target.label}"
                raise ConfigError(f"{where}: {both} stands in {place} and in {part}; keep one of them")
            places[target.path] = (target, part)
    written = [target for target, _ in places.values()]
    if grid.repeat > 1 and not any(set(target.writes) & set(_NAMES["seed"].writes) for target in written):
        written.append(_NAMES["seed"])
    return written


# What an expression may read beside the leaves: a value computed from the cell, and the leaves that it depends on.

_MODEL = tuple(f"model.{name}" for name in fields_of(_SECTIONS["model"]))
_TRANSFER = tuple(f"transfer.{name}" for name in fields_of(_SECTIONS["transfer"]))
_SIZES = ("model.depth", "tokens", "batch_tokens", *_TRANSFER)

_COMPUTED: Mapping[str, tuple[tuple[str, ...], Callable[["_Layout", Cell], Any]]] = {
    "params": (_MODEL, lambda layout, cell: layout.shape(cell).params),
    "params_total": (_MODEL, lambda layout, cell: layout.shape(cell).params_total),
    "params_paper_total": (_MODEL, lambda layout, cell: layout.shape(cell).params_paper_total),
    "flops_per_token": (_MODEL, lambda layout, cell: layout.shape(cell).flops_per_token),
    "flops": ((*_MODEL, "tokens"), lambda layout, cell: layout.shape(cell).flops_per_token * cell["tokens"]),
    "steps": (
        ("tokens", "batch_tokens"),
        lambda _, cell: max(1, int(cell["tokens"] / cell["batch_tokens"] + 0.5)),
    ),
    "predicted_lr": (_SIZES, lambda layout, cell: layout.predicted_lr(cell)),
    "lr_peak": (("lr", *_SIZES), lambda layout, cell: layout.lr_peak(cell)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One thing to do to every cell, once the paths that it reads are final."""

    name: str
    writes: tuple[str, ...]
    reads: frozenset[str]
    computed: tuple[str, ...]
    apply: Callable[[Cell], Sequence[Cell]]


class _Layout:
    """The cells of one flat grid over one arm; a class, because its caches of configurations live as long as it."""

    def __init__(self, *, sweep: str, arm: Arm, grid: Grid, labels: Sequence[Leaf]) -> None:
        self.where = f"sweep {sweep}"
        self.sweep, self.arm, self.base = sweep, arm, arm.base
        self.labels = [(target.label, target.writes[-1]) for target in labels]
        self.factors = self._factors(grid)
        self.cells = 1
        for _, rows in self.factors:
            self.cells *= len(rows)
        self.expanded = 0
        self.steps = self._ordered([*self._conditions(grid), *self._derived(grid), *self._repeats(grid)])
        written = {path for target in _written(grid, self.where) for path in target.writes}
        if grid.repeat > 1:
            written.update(_NAMES["seed"].writes)
        computed = {name for step in self.steps for name in step.computed}
        needed = written | {path for step in self.steps for path in step.reads}
        needed |= {path for name in computed for path in _COMPUTED[name][0]} | {path for _, path in self.labels}
        needed |= {"lr", "tokens", "batch_tokens", "precision", "model.depth", "optimizer.weight_decay"}
        self.start: Cell = {path: _value(self.base, path) for path in needed} | {"arm": arm.name}
        self.changed = {
            section: tuple(sorted(path for path in written if path.startswith(f"{section}."))) for section in _SECTIONS
        }
        self.made: dict[str, dict[tuple[Value, ...], Any]] = {section: {} for section in _SECTIONS}
        self.shapes: dict[tuple[Value, ...], ModelShape] = {}
        self.predictions: dict[tuple[Any, ...], float] = {}
        self.fingerprints: dict[tuple[DataConfig, int], DataConfig] = {}

    def specs(self) -> Iterator[RunSpec]:
        keys = [key for keys, _ in self.factors for key in keys]
        for rows in itertools.product(*(rows for _, rows in self.factors)):
            cell = self.start.copy()
            cell.update(zip(keys, itertools.chain.from_iterable(rows), strict=True))
            for complete in self._completed(cell):
                try:
                    yield self._spec(complete)
                except ValueError as error:
                    raise ConfigError(f"{self._place(complete)}: {error}") from error

    def section(self, name: str, cell: Cell) -> Any:
        paths = self.changed[name]
        if not paths:
            return getattr(self.base, name)
        values = tuple([cell[path] for path in paths])
        made = self.made[name].get(values)
        if made is None:
            fields = {path.partition(".")[2]: value for path, value in zip(paths, values, strict=True)}
            made = dataclasses.replace(getattr(self.base, name), **fields)
            self.made[name][values] = made
        return made

    def shape(self, cell: Cell) -> ModelShape:
        values = tuple([cell[path] for path in self.changed["model"]])
        shape = self.shapes.get(values)
        if shape is None:
            shape = self.shapes[values] = model_shape(self.section("model", cell))
        return shape

    def predicted_lr(self, cell: Cell) -> float:
        transfer = self.section("transfer", cell)
        sizes = (cell["model.depth"], cell["tokens"], cell["batch_tokens"], transfer)
        predicted = self.predictions.get(sizes)
        if predicted is None:
            depth, tokens, batch_tokens, _ = sizes
            predicted = self.predictions[sizes] = predicted_lr(
                transfer, lr=self.base.lr, depth=depth, tokens=tokens, batch_tokens=batch_tokens
            )
        return predicted

    def lr_peak(self, cell: Cell) -> float:
        return rates(
            self.section("transfer", cell),
            lr=cell["lr"],
            depth=cell["model.depth"],
            tokens=cell["tokens"],
            batch_tokens=cell["batch_tokens"],
        ).hidden

    def _spec(self, cell: Cell) -> RunSpec:
        model, optimizer = self.section("model", cell), self.section("optimizer", cell)
        transfer, lr = self.section("transfer", cell), cell["lr"]
        tokens, batch_tokens = cell["tokens"], cell["batch_tokens"]
        train = TrainConfig(
            model=model,
            optimizer=optimizer,
            schedule=self.section("schedule", cell),
            data=self._data(cell),
            evaluation=self.section("evaluation", cell),
            seed=self.section("seed", cell),
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
        return RunSpec(
            run_id=run_id(lr, train),
            sweep=self.sweep,
            arm=self.arm.name,
            axes=tuple([(label, cell[path]) for label, path in self.labels]),
            lr=lr,
            transfer=transfer,
            train=train,
        )

    def _data(self, cell: Cell) -> DataConfig:
        if not self.changed["data"] and "model.vocab" not in self.changed["model"]:
            return self.base.data
        key = (self.section("data", cell), self.section("model", cell).vocab)
        if key not in self.fingerprints:
            self.fingerprints[key] = fingerprinted(*key, self._place(cell))
        return self.fingerprints[key]

    def _completed(self, cell: Cell) -> list[Cell]:
        pending = [cell]
        for step in self.steps:
            grown: list[Cell] = []
            for each in pending:
                try:
                    for name in step.computed:
                        each[name] = _COMPUTED[name][1](self, each)
                except ValueError as error:
                    raise ConfigError(f"{self._place(each)}: {error}") from error
                grown.extend(step.apply(each))
            if step.writes and pending:
                self.expanded += len(grown) - len(pending)
            pending = grown
        return pending

    def _factors(self, grid: Grid) -> list[tuple[tuple[str, ...], list[tuple[Value, ...]]]]:
        factors = []
        groups = [("axes", (entry,)) for entry in grid.axes] + [("zip", group) for group in grid.zip]
        for part, group in groups:
            columns = [
                (leaf(key, f"{self.where}: {part}"), axis_values(key, entry, self.base, f"{self.where}: {part}.{key}"))
                for key, entry in group
            ]
            check_zip([(target.label, len(values)) for target, values in columns], f"{self.where}: {part}")
            keys = tuple(path for target, _ in columns for path in target.writes)
            rows = [
                tuple(value for (target, _), value in zip(columns, row, strict=True) for _ in target.writes)
                for row in zip(*(values for _, values in columns), strict=True)
            ]
            factors.append((keys, rows))
        return factors

    def _derived(self, grid: Grid) -> list[_Step]:
        return [
            self._derivation(leaf(key, f"{self.where}: derive"), entry, f"{self.where}: derive.{key}")
            for key, entry in grid.derive
        ]

    def _derivation(self, target: Leaf, entry: str | tuple[Value, ...], where: str) -> _Step:
        text = entry if isinstance(entry, str) else repr(list(entry))
        expression = check_derived(text, where)

        def derive(cell: Cell) -> Sequence[Cell]:
            value = expression(cell)
            if not isinstance(value, list):
                typed = _typed(target, value, where)
                for path in target.writes:
                    cell[path] = typed
                return (cell,)
            if not value:
                raise ConfigError(f"{where}: {text!r} is an empty list; give at least one value")
            return [cell | dict.fromkeys(target.writes, _typed(target, item, where)) for item in value]

        return self._step(f"derive.{target.label}", expression, derive, target.writes)

    def _conditions(self, grid: Grid) -> list[_Step]:
        steps = []
        for text in grid.where:
            condition = check_derived(text, f"{self.where}: where")

            def kept(cell: Cell, condition: Expression = condition) -> Sequence[Cell]:
                return (cell,) if holds(condition, cell) else ()

            steps.append(self._step("where", condition, kept))
        return steps

    def _repeats(self, grid: Grid) -> list[_Step]:
        if grid.repeat == 1:
            return []
        seeds = _NAMES["seed"].writes

        def repeated(cell: Cell) -> Sequence[Cell]:
            return [cell | {path: cell[path] + i for path in seeds} for i in range(grid.repeat)]

        return [_Step(name="repeat", writes=seeds, reads=frozenset(seeds), computed=(), apply=repeated)]

    def _step(
        self, name: str, expression: Expression, apply: Callable[[Cell], Sequence[Cell]], writes: tuple[str, ...] = ()
    ) -> _Step:
        computed = tuple(sorted(_COMPUTED.keys() & expression.names))
        reads = {name for name in expression.names if name not in _COMPUTED and name != "arm"}
        reads |= {path for name in computed for path in _COMPUTED[name][0]}
        return _Step(name=name, writes=writes, reads=frozenset(reads), computed=computed, apply=apply)

    def _ordered(self, steps: Sequence[_Step]) -> list[_Step]:
        """The steps so that what one reads is final before; conditions as early as they can stand."""
        waiting, ordered = list(steps), []
        while waiting:
            ready = [step for step in waiting if not any(_precedes(other, step) for other in waiting)]
            if not ready:
                circle = " and ".join(step.name for step in waiting if step.writes)
                raise ConfigError(
                    f"{self.where}: {circle} depend on each other in a circle; give one of them a plain value"
                )
            first = min(ready, key=lambda step: (bool(step.computed), bool(step.writes)))
            waiting.remove(first)
            ordered.append(first)
        return ordered

    def _place(self, cell: Cell) -> str:
        values = ", ".join(f"{label}={cell[path]}" for label, path in self.labels)
        return f"{self.where}, arm {self.arm.name}, cell {values}" if values else f"{self.where}, arm {self.arm.name}"


def _precedes(other: _Step, step: _Step) -> bool:
    # A derived value may read what it replaces (its base), and a repeat comes after a derived seed.
    if other is step or (other.name == "repeat" and set(step.writes) & set(other.writes)):
        return False
    return bool(step.reads.intersection(other.writes))


def check_zip(lengths: Sequence[tuple[str, int]], where: str) -> None:
    """Refuse a group whose entries cannot advance together.

    Raises:
        ConfigError: Entries of unequal length.
    """
    if len({length for _, length in lengths}) > 1:
        seen = ", ".join(f"{name} has {length}" for name, length in lengths)
        raise ConfigError(f"{where}: zipped values must be equally many, but {seen}; lengthen the shorter")


def fingerprinted(data: DataConfig, vocab: int, where: str) -> DataConfig:
    """`data` with the fingerprint of its content.

    Raises:
        DataError: The data cannot be read or do not fit the vocabulary.
    """
    from model.corpus import with_fingerprint  # reads files, which most cells never need

    try:
        return with_fingerprint(data, vocab)
    except (ValueError, OSError) as error:
        raise DataError(f"{where}: {error}") from error
