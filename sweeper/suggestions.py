"""Cells that `suggest` adds to a sweep: kept beside its results, laid over every expansion that holds their group."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.grid import at_rate
from sweeper.records import SweepFolder, read_json, write_json
from sweeper.spec import RunSpec, Value

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestedCell:
    """One run, told by what it shares with the cells of its group and by its own rate."""

    arm: str
    axes: dict[str, Value]
    """Every axis value but the rate."""
    lr: float
    """Base learning rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestionFile:
    """`suggestions/<k>.json`: what one `suggest` added."""

    schema_version: int
    cells: tuple[SuggestedCell, ...]


def suggested_specs(specs: Sequence[RunSpec], folder: SweepFolder) -> tuple[RunSpec, ...]:
    """The runs that were suggested for groups of these cells and are not among them.

    Raises:
        DiskError: A file cannot be read.
    """
    cells = [cell for path in _files(folder) if (found := read_json(path, SuggestionFile)) for cell in found.cells]
    if not cells:
        return ()
    known = {(spec.arm, spec.run_id) for spec in specs}
    templates: dict[tuple[object, ...], RunSpec] = {}
    for spec in specs:
        templates.setdefault(kin(spec), spec)
    made = {}
    for cell in cells:
        template = templates.get(_key(cell.arm, cell.axes.items()))
        if template is not None:
            spec = at_rate(template, cell.lr)
            if (spec.arm, spec.run_id) not in known:
                made[spec.arm, spec.run_id] = spec
    return tuple(made.values())


def cells_at(templates: Iterable[RunSpec], lr_peak: float | None = None, *, lr: float = 0.0) -> list[SuggestedCell]:
    """One cell per template, at a peak rate (through its own transfer rule) or at a base rate."""
    cells = []
    for spec in templates:
        base = lr if lr_peak is None else float(f"{lr_peak * spec.lr / spec.lr_peak:.6g}")
        cells.append(SuggestedCell(arm=spec.arm, axes={k: v for k, v in spec.axes if k != "lr"}, lr=base))
    return cells


def write_suggestion(folder: SweepFolder, cells: Sequence[SuggestedCell]) -> Path:
    """Add cells to a sweep; returns their file.

    Raises:
        DiskError: The folder cannot be written.
    """
    numbers = [int(path.stem) for path in _files(folder)]
    path = folder.path / "suggestions" / f"{max(numbers, default=0) + 1}.json"
    write_json(path, SuggestionFile(schema_version=SCHEMA_VERSION, cells=tuple(cells)))
    return path


def kin(spec: RunSpec) -> tuple[object, ...]:
    """What a run shares with those that differ in their rate alone."""
    return _key(spec.arm, spec.axes)


def _key(arm: str, axes: Iterable[tuple[str, Value]]) -> tuple[object, ...]:
    return (arm, *sorted((name, value) for name, value in axes if name != "lr"))


def _files(folder: SweepFolder) -> list[Path]:
    """In the order in which they were written."""
    found = (folder.path / "suggestions").glob("*.json")
    return sorted((path for path in found if path.stem.isdigit()), key=lambda path: int(path.stem))
