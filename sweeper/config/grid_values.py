"""The grid of a composed configuration: its parts read, then typed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.config.keys import GRID_KEYS
from sweeper.config.source import Source
from sweeper.errors import ConfigError
from sweeper.expressions import clauses, compile_expression, opened
from sweeper.grid.axes import axis_values, check_derived, check_layout, check_zip
from sweeper.grid.leaves import Leaf, leaf
from sweeper.spec import Base, Entry, Grid
from sweeper.typed import convert, did_you_mean

Entries = Mapping[str, tuple[Leaf, Any]]
"""Leaf and value as written, by the leaf's path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridValues:
    """The parts of a grid before their values are checked."""

    axes: Entries
    derive: Entries
    zip: tuple[Entries, ...]
    where: tuple[str, ...]
    repeat: Any
    union: tuple["GridValues", ...]
    path: str
    """Empty, or `union` for a branch of one."""

    def place(self, part: str, source: Source) -> str:
        return source.place(_joined(self.path, part))


def read_grid(source: Source) -> GridValues:
    """The grid of a composed configuration.

    Raises:
        ConfigError: An unknown key or leaf, a leaf that is given twice, or a part of another form.
    """
    return _read({key: source.values[key] for key in GRID_KEYS if key in source.values}, "", source)


def typed_grid(grid: GridValues, base: Base, unset: frozenset[str], source: Source) -> Grid:
    """The grid with every axis evaluated over `base` and every derived expression checked.

    `unset` are the settings whose value in `base` is a placeholder.

    Raises:
        ConfigError: A value that does not fit its leaf, an expression that cannot be read, or a leaf that is set twice.
    """

    def place_of(part: str, target: Leaf) -> str:
        # An override is known by the full path of its leaf, however it was spelled.
        overridden = not grid.path and any(o.path == f"{part}.{target.path}" for o in source.overrides)
        return grid.place(f"{part}.{target.path if overridden else target.label}", source)

    def values(target: Leaf, value: Any, part: str) -> Entry:
        place = place_of(part, target)
        if value is None:
            raise ConfigError(f"{place}: the axis is empty; give it at least one value, or remove it")
        if isinstance(value, str):
            if target.kind in (int, float):
                _check_read(value, unset, place, source.own)
        elif not isinstance(value, list):
            value = [value]
        return target.key, axis_values(target.path, value, base, place)

    def derived(target: Leaf, value: Any) -> Entry:
        text = f"[{', '.join(map(as_text, value))}]" if isinstance(value, list) else as_text(value)
        _check_read(text, unset, place_of("derive", target), source.own)
        return target.key, text

    zips = []
    for group in grid.zip:
        entries = tuple(values(target, value, "zip") for target, value in group.values())
        check_zip([(key, len(taken)) for key, taken in entries], grid.place("zip", source))
        zips.append(entries)
    for text in grid.where:
        check_derived(text, grid.place("where", source), source.own)
    repeat = _count(grid.repeat, grid.place("repeat", source))
    made = Grid(
        axes=tuple(values(target, value, "axes") for target, value in grid.axes.values()),
        zip=tuple(zips),
        derive=tuple(derived(target, value) for target, value in grid.derive.values()),
        where=grid.where,
        repeat=repeat,
        union=tuple(typed_grid(branch, base, unset, source) for branch in grid.union),
    )
    if not grid.path:
        check_layout(made, source.place("axes"))
    return made


def as_text(value: Any) -> str:
    """A value as it is written: an expression, or YAML's number or list."""
    return value if isinstance(value, str) else repr(value)


def _joined(path: str, part: str) -> str:
    return f"{path}.{part}" if path else part


def _read(values: Mapping[str, Any], path: str, source: Source) -> GridValues:
    def at(key: str) -> str:
        return _joined(path, key)

    for key in values:
        if key not in GRID_KEYS:
            raise ConfigError(f"{source.place(at(key))}: a grid has no key {key!r}; {did_you_mean(key, GRID_KEYS)}")

    def part(key: str) -> Any:
        value = values.get(key)
        return opened(value, source.place(at(key))) if isinstance(value, str) else value

    def parts(key: str) -> list[Any]:
        several = part(key) or []
        if not isinstance(several, list | Mapping):
            raise ConfigError(f"{source.place(at(key))}: expected a list of mappings, got {several!r}")
        return [several] if isinstance(several, Mapping) else several

    zips, branches = parts("zip"), parts("union")
    return GridValues(
        axes=_entries(part("axes"), at("axes"), source),
        derive=_entries(part("derive"), at("derive"), source),
        zip=tuple(_entries(group, at("zip"), source) for group in zips),
        where=_conditions(values.get("where"), at("where"), source),
        repeat=values.get("repeat", 1),
        union=tuple(
            _read(_mapping(branch, at(f"union[{i}]"), source), at("union"), source) for i, branch in enumerate(branches)
        ),
        path=path,
    )


def _mapping(values: Any, path: str, source: Source) -> Mapping[str, Any]:
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source.place(path)}: expected a mapping of names to values, got {values!r}")
    return values


def _entries(values: Any, path: str, source: Source) -> Entries:
    """The entries by the path of their leaf; of two spellings of one leaf, an override's wins."""
    overridden = {o.path for o in source.overrides if o.kind == "grid"}
    entries: dict[str, tuple[Leaf, Any]] = {}

    def add(prefix: str, nested: Mapping[str, Any]) -> None:
        for key, value in nested.items():
            name = _joined(prefix, str(key))
            if isinstance(value, Mapping):
                add(name, value)
                continue
            target = leaf(name, source.place(f"{path}.{name}"), own=source.own)
            if target.path in entries and f"{path}.{target.path}" not in overridden:
                raise ConfigError(f"{source.place(f'{path}.{name}')}: {target.label!r} is given twice; keep one")
            entries[target.path] = (target, value)

    add("", _mapping(values, path, source))
    return entries


def _conditions(values: Any, path: str, source: Source) -> tuple[str, ...]:
    if values is None:
        return ()
    if isinstance(values, str):
        return clauses(values, source.place(path))
    return convert(tuple[str, ...], values, path, place=source.place)  # type: ignore[no-any-return]


def _check_read(text: str, unset: frozenset[str], place: str, own: Mapping[str, Any]) -> None:
    """Refuse an expression that cannot be read, or that starts from a rate which the sweep does not give."""
    names = check_derived(text, place, own).names
    if "lr" in unset and not names.isdisjoint(("lr", "predicted_lr")):
        raise ConfigError(f"{place}: {text!r} starts from lr, which the sweep does not set; add lr: … to it")


def _count(value: Any, place: str) -> int:
    if isinstance(value, str) and not (expression := compile_expression(value, place)).names:
        value = expression({})
    count: int = convert(int, value, place)
    if count < 1:
        raise ConfigError(f"{place}: repeat must be at least 1, got {count}")
    return count
