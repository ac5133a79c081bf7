"""The parts of a grid before its cells are laid out: axes evaluated, names resolved, unions unfolded."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sweeper.errors import ConfigError
from sweeper.expressions import Expression, compile_expression
from sweeper.grid.computed import COMPUTED, base_value
from sweeper.grid.leaves import ALL_NAMES, NAMES, SEED, VALUES, Leaf, leaf, typed
from sweeper.spec import Base, Entry, Grid, Value
from sweeper.typed import did_you_mean


def axis_values(key: str, entry: str | Iterable[Any], base: Base, where: str) -> tuple[Value, ...]:
    """The values of an axis, each of its leaf's type; an expression may read the values of `base`.

    A bare word on an axis of text is that word: `precision: "[float32, bfloat16]"`.

    Raises:
        ConfigError: No value at all, or one that does not fit.
    """
    target = leaf(key, where, own=dict(base.trainer.values))
    if isinstance(entry, str):
        entry = _evaluated(target, entry, base, where)
    values = tuple(typed(target, value, where) for value in entry)
    if not values:
        raise ConfigError(f"{where}: the axis is empty; give it at least one value, or remove it")
    return values


def _evaluated(target: Leaf, text: str, base: Base, where: str) -> list[Any]:
    scope: Mapping[str, Any]
    if target.kind is str or not isinstance(target.kind, type):
        expression = compile_expression(text, where)
        scope = {name: name for name in expression.names}
    else:
        expression = compile_expression(text, where, _readable(where, dict(base.trainer.values)))
        scope = {name: base_value(base, name) for name in expression.names - COMPUTED.keys()}
    computed = sorted(COMPUTED.keys() & expression.names)
    if computed:
        raise ConfigError(
            f"{where}: {text!r} reads {', '.join(computed)}, which differs "
            f"from cell to cell; write it as derive.{target.label}"
        )
    value = expression(scope)
    return value if isinstance(value, list) else [value]


def _readable(where: str, own: Mapping[str, Value]) -> Callable[[str], str]:
    """Resolves what an expression may read to its path; `own` are the values of the trainer."""

    def resolve(name: str) -> str:
        if name in COMPUTED or name == "arm":
            return name
        if name not in ALL_NAMES and name not in own and not name.startswith(VALUES):
            raise ConfigError(f"{where}: unknown name {name!r}; {did_you_mean(name, [*NAMES, *COMPUTED, *own])}")
        return leaf(name, where, own=own).writes[-1]

    return resolve


def check_derived(expression: str, where: str, own: Mapping[str, Value]) -> Expression:
    """The expression of a `derive` or `where`, its names resolved to paths; `own` are the values of the trainer.

    Raises:
        ConfigError: Bad syntax, or a name that is neither a setting nor a computed value.
    """
    return compile_expression(expression, where, _readable(where, own))


def reads_its_base(target: str, expression: Expression) -> bool:
    """Whether a derived value depends on the value that it replaces, so that setting that value moves it."""
    return target in expression.names or (target == "lr" and "predicted_lr" in expression.names)


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


def written(grid: Grid, where: str) -> list[Leaf]:
    """The leaves that a flat grid sets, in its order.

    Raises:
        ConfigError: A leaf among both axes and derived values, or in two zips.
    """
    places: list[tuple[Leaf, str]] = []
    for part, entries in [("axes", grid.axes), *(("zip", group) for group in grid.zip), ("derive", grid.derive)]:
        for key, _ in entries:
            target = leaf(key, f"{where}: {part}")
            for other, place in places:
                if set(target.writes) & set(other.writes):
                    both = target.label if target == other else f"{other.label} and {target.label}"
                    raise ConfigError(f"{where}: {both} stands in {place} and in {part}; keep one of them")
            places.append((target, part))
    leaves = [target for target, _ in places]
    if grid.repeat > 1 and not any(set(target.writes) & set(SEED.writes) for target in leaves):
        leaves.append(SEED)
    return leaves


def check_layout(grid: Grid, where: str) -> None:
    """Refuse a grid that sets one leaf twice.

    Raises:
        ConfigError: A leaf among both axes and derived values, or in two zips.
    """
    for flat in flat_grids(grid):
        written(flat, where)


def check_zip(lengths: Sequence[tuple[str, int]], where: str) -> None:
    """Refuse a group whose entries cannot advance together.

    Raises:
        ConfigError: Entries of unequal length.
    """
    if len({length for _, length in lengths}) > 1:
        seen = ", ".join(f"{name} has {length}" for name, length in lengths)
        raise ConfigError(f"{where}: zipped values must be equally many, but {seen}; lengthen the shorter")
