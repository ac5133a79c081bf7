"""What overrides do to a grid beyond setting its keys: what they pin, replace and remove, with a note about each."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from sweeper.config.grid_values import Entries, GridValues, as_text
from sweeper.config.keys import GRID_KEYS
from sweeper.config.overrides import Override
from sweeper.config.source import Source
from sweeper.errors import ConfigError
from sweeper.grid.axes import check_derived, reads_its_base
from sweeper.grid.leaves import Leaf, leaf, varies

EMPTY: Mapping[str, Any] = {"axes": {}, "zip": (), "union": (), "derive": {}, "where": (), "repeat": 1}
"""The parts of a grid without cells of its own."""


def edited(grid: GridValues, source: Source) -> tuple[GridValues, list[str]]:
    """The grid after the overrides' removals and pins, with a sentence about each that a user may not expect.

    Raises:
        ConfigError: The removal of what the grid does not hold.
    """
    notes: list[str] = []
    for path, override in _last(grid, source).items():
        part = _part(override)
        if path in GRID_KEYS:
            later = {o.path for o in source.overrides[source.overrides.index(override) + 1 :]}
            if path not in later:
                grid = dataclasses.replace(grid, **{path: _given(grid, path, later)})
            continue
        if override.kind == "removal" and path not in getattr(grid, part):
            raise ConfigError(f"{override.place}: the sweep has no {override.path}; leave it out")
        grid = _without(grid, leaf(path, override.place, own=source.own), override, notes, source.own)
    return grid, notes


def _given(grid: GridValues, part: str, overrides: Collection[str]) -> Any:
    """What is left of a part that was removed: the entries that these overrides gave it."""
    if part not in ("axes", "derive"):
        return EMPTY[part]
    return {path: entry for path, entry in getattr(grid, part).items() if f"{part}.{path}" in overrides}


def _last(grid: GridValues, source: Source) -> dict[str, Override]:
    """The override that has the last word on each leaf, and the removal of each part."""
    last: dict[str, Override] = {}
    for override in source.overrides:
        part, _, rest = override.path.partition(".")
        match override.kind:
            case "setting" if varies(override.path):
                last[override.path] = override
            case "grid" if rest:
                last[rest] = override
            case "grid" if part in ("axes", "derive", "zip"):
                entries = {"axes": (grid.axes,), "derive": (grid.derive,), "zip": grid.zip}[part]
                last |= {path: override for group in entries for path in group}
            case "removal":
                last[rest or part] = override
    return last


def _part(override: Override) -> str:
    return override.path.partition(".")[0]


def _without(
    grid: GridValues,
    target: Leaf,
    override: Override,
    notes: list[str],
    trainer: Mapping[str, Any],
    *,
    branch: bool = False,
) -> GridValues:
    """The grid without the entries that the override of `target` takes the place of; `notes` grow by what it did.

    `trainer` are the values that the trainer declares.
    """
    own = _part(override)

    def gives_way(part: str, other: Leaf, text: str) -> bool:
        if set(target.writes).isdisjoint(other.writes):
            return False
        match override.kind:
            case "removal":
                return part == own
            case "setting":
                return part != "derive" or not reads_its_base(target.path, check_derived(text, override.place, trainer))
        # In its own part of the whole grid, the entry is the override's.
        return branch or part != own

    def rest(part: str, entries: Entries) -> Entries:
        kept = {}
        for path, (other, value) in entries.items():
            text = as_text(value)
            if not gives_way(part, other, text):
                kept[path] = (other, value)
            elif override.kind == "setting":
                notes.append(f"{override.place} pins {target.label}; the sweep's {text} is left out")
            elif override.kind == "grid":
                notes.append(f"{override.place} takes the place of {part}.{other.label} = {text}")
        return kept

    return dataclasses.replace(
        grid,
        axes=rest("axes", grid.axes),
        derive=rest("derive", grid.derive),
        zip=tuple(group for each in grid.zip if (group := rest("zip", each))),
        union=tuple(_without(each, target, override, notes, trainer, branch=True) for each in grid.union),
    )
