"""What is done to every cell of a grid: values derived, conditions asked, seeds repeated, each once it can be."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sweeper.errors import ConfigError
from sweeper.expressions import Expression, holds
from sweeper.grid.axes import check_derived
from sweeper.grid.computed import COMPUTED, Cell, Computed
from sweeper.grid.leaves import SEED, Leaf, leaf, typed
from sweeper.spec import Grid, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do to every cell, once the paths that it reads are final."""

    name: str
    reads: frozenset[str]
    writes: tuple[str, ...] = ()
    """Empty for a condition."""
    computed: tuple[tuple[str, Computed], ...] = ()
    """What must stand in the cell before."""
    apply: Callable[[Cell], Sequence[Cell]]
    """The cells that take the place of one."""


def ordered_steps(grid: Grid, where: str, own: Mapping[str, Value]) -> tuple[Step, ...]:
    """The steps of a flat grid so that what one reads is final before; conditions as early as they can stand.

    `own` are the values of the trainer.

    Raises:
        ConfigError: An expression that cannot be read, or derived values that depend on each other in a circle.
    """
    waiting, ordered = list(_steps(grid, where, own)), []
    while waiting:
        ready = [step for step in waiting if not any(_precedes(other, step) for other in waiting)]
        if not ready:
            circle = " and ".join(step.name for step in _circle(waiting))
            raise ConfigError(f"{where}: {circle} depend on each other in a circle; give one of them a plain value")
        first = min(ready, key=lambda step: (bool(step.computed), bool(step.writes)))
        waiting.remove(first)
        ordered.append(first)
    return tuple(ordered)


def _circle(waiting: Sequence[Step]) -> list[Step]:
    """The steps of one circle, in their order, among steps that all wait for another."""
    path = [waiting[0]]
    while True:
        before = next(other for other in waiting if _precedes(other, path[-1]))
        if before in path:
            members = path[path.index(before) :]
            return [step for step in waiting if step in members]
        path.append(before)


def _precedes(other: Step, step: Step) -> bool:
    # A derived value may read what it replaces (its base), and a repeat comes after a derived seed.
    if other is step or (other.name == "repeat" and set(step.writes) & set(other.writes)):
        return False
    return bool(step.reads.intersection(other.writes))


def _steps(grid: Grid, where: str, own: Mapping[str, Value]) -> Iterator[Step]:
    for text in grid.where:
        yield _condition(check_derived(text, f"{where}: where", own))
    for key, entry in grid.derive:
        text = entry if isinstance(entry, str) else repr(list(entry))
        place = f"{where}: derive.{key}"
        yield _derivation(leaf(key, f"{where}: derive", own=own), check_derived(text, place, own), place)
    if grid.repeat > 1:
        yield _repeat(grid.repeat)


def _condition(condition: Expression) -> Step:
    def kept(cell: Cell) -> Sequence[Cell]:
        return (cell,) if holds(condition, cell) else ()

    return Step(name="where", reads=_reads(condition), computed=_computed(condition), apply=kept)


def _derivation(target: Leaf, expression: Expression, where: str) -> Step:
    def derived(cell: Cell) -> Sequence[Cell]:
        value = expression(cell)
        if not isinstance(value, list):
            cell.update(dict.fromkeys(target.writes, typed(target, value, where)))
            return (cell,)
        if not value:
            raise ConfigError(f"{where}: {expression.text!r} is an empty list; give at least one value")
        return [cell | dict.fromkeys(target.writes, typed(target, item, where)) for item in value]

    return Step(
        name=f"derive.{target.label}",
        reads=_reads(expression),
        writes=target.writes,
        computed=_computed(expression),
        apply=derived,
    )


def _repeat(count: int) -> Step:
    def repeated(cell: Cell) -> Sequence[Cell]:
        return [cell | {path: cell[path] + i for path in SEED.writes} for i in range(count)]

    return Step(name="repeat", reads=frozenset(SEED.writes), writes=SEED.writes, apply=repeated)


def _computed(expression: Expression) -> tuple[tuple[str, Computed], ...]:
    return tuple((name, COMPUTED[name]) for name in sorted(COMPUTED.keys() & expression.names))


def _reads(expression: Expression) -> frozenset[str]:
    """The paths that an expression depends on, also through what is computed for it."""
    leaves = expression.names - COMPUTED.keys() - {"arm"}
    return leaves.union(*(computed.reads for _, computed in _computed(expression)))
