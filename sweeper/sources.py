"""What a command is about: a sweep with its cells, or a table of results with the question to it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.config import load_sweep, sweep_names
from sweeper.config.locate import find_sweep
from sweeper.errors import SweeperError
from sweeper.grid import lay_out
from sweeper.records import RunRecord, SweepFolder, read_records
from sweeper.spec import Question, Reference, RunSpec, Sweep
from sweeper.suggestions import suggested_specs

if TYPE_CHECKING:
    from sweeper.table import Import, Table

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
"""How the names of files of results end, before `.gz`."""

# `sweeper.table` and `sweeper.analysis` bring pandas and scipy: only the commands that need them import them.


def open_sweep(name: str, overrides: Sequence[str], runs: Path) -> tuple[Sweep, tuple[RunSpec, ...], SweepFolder]:
    """A sweep with its cells and its folder; its notes say what became of cells too."""
    sweep = load_sweep(name, overrides)
    expansion = lay_out(sweep)
    folder = SweepFolder(runs, sweep.name)
    added = suggested_specs(expansion.specs, folder)
    notes = (f"{len(added)} of the cells were added by sweeper suggest",) if added else ()
    return replace(sweep, notes=sweep.notes + expansion.notes + notes), expansion.specs + added, folder


def collect_sweep(
    specs: tuple[RunSpec, ...], folder: SweepFolder, records: Mapping[str, RunRecord] | None = None
) -> Path:
    """Write `results.csv` and `results.parquet` of the cells that have a record; returns the CSV's path.

    `records` are those of the folder, where they have been read already.
    """
    from sweeper.table import results, write_results

    found = read_records(folder) if records is None else records
    return write_results(results(found.values(), specs), folder.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysed:
    """A table with the question to it, wherever it came from."""

    title: str
    table: "Table"
    question: Question
    specs: tuple[RunSpec, ...] = ()
    """The cells of the sweep; none for a file or for imported rows alone."""
    sweep: Sweep | None = None
    """The sweep itself, where there is one."""
    records: Mapping[str, RunRecord] = field(default_factory=dict)
    """Every record in its folder, by run_id."""
    folder: SweepFolder | None = None
    """None for a file."""
    notes: tuple[str, ...] = ()
    """What was recognised in the source or joined to it, one sentence each."""
    warnings: tuple[str, ...] = ()
    """What looks wrong in it: rows that no pattern matches, units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was typed about columns and fits; empty values leave the question of the sweep as it is."""

    lr: str = ""
    loss: str = "loss"
    mapping: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    per: tuple[str, ...] = ()
    laws: tuple[str, ...] = ()
    curves: tuple[str, ...] = ()
    surfaces: tuple[str, ...] = ()
    joint: tuple[str, ...] = ()
    irreducible: bool = False
    sensitivity: bool = False
    baseline: str = ""
    reference: Reference = ""
    where: str = ""


def open_source(source: str, overrides: Sequence[str], runs: Path, asked: Asked) -> Analysed:
    """The results of a sweep with the rows imported to it, imported rows alone, or a file; each with its question."""
    if is_table(source):
        _no_overrides(overrides, f"{source} is a file")
        return _open_file(source, asked)
    if asked.mapping or asked.patterns:
        option = "--map" if asked.mapping else "--pattern"
        raise SweeperError(f"{option} is about the columns of a file, but the source is a sweep; leave it out")
    if _imported_alone(source, runs):
        _no_overrides(overrides, f"{source} holds imported rows and no sweep of that name is known")
        return _open_imported(source, runs, asked)
    return _open_results(source, overrides, runs, asked)


def is_table(source: str) -> bool:
    """Whether a source is a file of results rather than a sweep."""
    name = source.removesuffix(".gz").lower()
    path = Path(source)
    return name.endswith(TABLES) or (path.suffix not in ("", ".yaml", ".yml") and path.is_file())


def _open_results(source: str, overrides: Sequence[str], runs: Path, asked: Asked) -> Analysed:
    from sweeper import analysis, table

    sweep, specs, folder = open_sweep(source, overrides, runs)
    records = read_records(folder)
    rows = table.results(records.values(), specs)
    imported = table.imported_rows(folder.path)
    if rows.empty and imported.empty and records:
        raise SweeperError(
            f"{folder.path} holds {len(records)} results, none of them for this grid of {len(specs)} cells; "
            "give the overrides of the launch, or launch it"
        )
    if rows.empty and imported.empty:
        raise SweeperError(f"{folder.path} holds no results; launch the sweep, or name the folder of its --runs")
    notes = () if imported.empty else (f"{len(imported)} imported rows join {len(rows)} results of {sweep.name}",)
    rows = rows if imported.empty else table.joined(rows, imported)
    rows = table.where(rows, asked.where) if asked.where else rows
    question = _asked_of(analysis.of_rate(sweep.question, asked.lr), asked)
    missing = len(specs) - sum(spec.run_id in records for spec in specs)
    waiting = (f"{missing} of {len(specs)} cells have no result: see sweeper status {source}",) if missing else ()
    return Analysed(
        title=sweep.name,
        table=rows,
        question=question,
        specs=specs,
        sweep=sweep,
        records=records,
        folder=folder,
        notes=notes,
        warnings=waiting,
    )


def _open_imported(name: str, runs: Path, asked: Asked) -> Analysed:
    from sweeper import table

    folder = SweepFolder(runs, name)
    rows = table.imported_rows(folder.path)
    notes = (f"{len(rows)} imported rows, and no sweep file {name!r} beside them",)
    rows = table.where(rows, asked.where) if asked.where else rows
    return Analysed(title=name, table=rows, question=_question_of(rows, asked), folder=folder, notes=notes)


def _open_file(source: str, asked: Asked) -> Analysed:
    from sweeper import table

    found = table.read_foreign(Path(source), _mapping(asked.mapping), _patterns(asked.patterns))
    rows = table.where(found.table, asked.where, _renamed(asked)) if asked.where else found.table
    return Analysed(
        title=source,
        table=rows,
        question=_question_of(rows, asked),
        notes=found.notes,
        warnings=(
            *found.warnings,
            *table.unit_doubts(rows, lr=asked.lr, loss=asked.loss, mapping=_mapping(asked.mapping)),
        ),
    )


def import_file(source: str, name: str, runs: Path, asked: Asked) -> tuple["Import", bool, Analysed]:
    """Keep the rows of a file beside the results of a sweep, under our names; the file's own are typed in `asked`.

    Returns:
        The import, whether it is new, and the rows with what there is to say about them.

    Raises:
        SweeperError: The name is none, the file is not readable, or it lacks the learning rate or the loss.
    """
    from sweeper import table

    folder = _folder_of(name, runs)
    taken = {"lr": asked.lr or "lr", "loss": asked.loss}
    mapping = {ours: theirs for ours, theirs in taken.items() if theirs != ours} | _mapping(asked.mapping)
    found = table.read_foreign(Path(source), mapping, _patterns(asked.patterns))
    rows = table.where(found.table, asked.where, _renamed(asked)) if asked.where else found.table
    for column, option in ((table.lr_column(rows), "--lr"), ("loss", "--loss")):
        if column not in rows.columns:
            known = ", ".join(map(str, rows.columns))
            raise SweeperError(f"{source}: no column {column!r}; name it with {option}, among {known}")
        table.numbers(rows, column)
    origin = table.Import(
        number=0,
        source=Path(source).name,
        sha256=_sha256(Path(source)),
        mapping=tuple(mapping.items()),
        patterns=_patterns(asked.patterns),
        where=asked.where,
        rows=len(rows),
    )
    kept, new = table.add_imported(folder.path, rows, origin)
    warnings = (*found.warnings, *table.unit_doubts(rows, mapping=mapping))
    said = Analysed(title=name, table=rows, question=Question(), folder=folder, notes=found.notes, warnings=warnings)
    return kept, new, said


def list_imports(name: str, runs: Path) -> tuple["Import", ...]:
    """What has been imported to a sweep or under a name of its own."""
    from sweeper import table

    return table.imports(_folder_of(name, runs).path)


def forget_import(name: str, runs: Path, number: int) -> "Import":
    """Remove the rows of one import; returns what it was."""
    from sweeper import table

    return table.remove_import(_folder_of(name, runs).path, number)


def _folder_of(name: str, runs: Path) -> SweepFolder:
    """The folder of a sweep by its name or file, or of a name that only imported rows go by.

    Raises:
        SweeperError: The name would leave the folder of the runs.
    """
    if name in sweep_names() or name.endswith(".yaml"):
        return SweepFolder(runs, find_sweep(name)[1])
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or any(part.startswith((".", "_")) for part in parts) or is_table(name):
        raise SweeperError(
            f"--to {name!r}: no name of a sweep; give one such as {Path(name).stem.strip('._') or 'mine'!r}"
        )
    return SweepFolder(runs, name)


def _imported_alone(name: str, runs: Path) -> bool:
    """Whether rows were imported under a name that no sweep has."""
    return bool(name) and name not in sweep_names() and any((runs / name / "imported").glob("*.parquet"))


def _no_overrides(overrides: Sequence[str], why: str) -> None:
    if overrides:
        raise SweeperError(f"overrides such as {overrides[0]!r} belong to a sweep, but {why}; use --where")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _question_of(rows: "Table", asked: Asked) -> Question:
    """The question to rows that no sweep file asks."""
    from sweeper import analysis

    question = analysis.file_question(
        rows,
        by=asked.by,
        per=asked.per,
        laws=asked.laws,
        curves=asked.curves,
        surfaces=asked.surfaces,
        baseline=asked.baseline,
        lr=asked.lr,
    )
    return replace(question, **_beside(asked))  # type: ignore[arg-type]


def _asked_of(question: Question, asked: Asked) -> Question:
    """A sweep's question with what was typed in its place."""
    typed: dict[str, object] = {
        "by": asked.by,
        "per": asked.per,
        "laws": asked.laws,
        "curves": asked.curves,
        "surfaces": asked.surfaces,
        "baseline": asked.baseline,
    }
    typed = {name: value for name, value in typed.items() if value} | _beside(asked)
    return replace(question, **typed)  # type: ignore[arg-type]


def _beside(asked: Asked) -> dict[str, object]:
    """What was typed of the parts of a question that follow from no column."""
    typed = {
        "joint": asked.joint,
        "irreducible": asked.irreducible,
        "sensitivity": asked.sensitivity,
        "reference": asked.reference,
    }
    return {name: value for name, value in typed.items() if value}


def _renamed(asked: Asked) -> dict[str, str]:
    """Our names for the columns that a file calls otherwise."""
    return {theirs: ours for ours, theirs in _mapping(asked.mapping).items()}


def _mapping(options: tuple[str, ...]) -> dict[str, str]:
    from sweeper.table import pairs

    typed = pairs(options, "--map", "tokens=D")
    for ours, _ in typed:
        if sum(other == ours for other, _ in typed) > 1:
            raise SweeperError(f"--map gives {ours!r} {sum(other == ours for other, _ in typed)} times; keep one")
    return dict(typed)


def _patterns(options: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    from sweeper.table import pairs

    return pairs(options, "--pattern", "'run_name=lr(?P<lr>[0-9.e-]+)'")
