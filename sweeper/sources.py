"""What a command is about: a sweep with its cells, or a table of results with the question to it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.config import load_sweep
from sweeper.errors import SweeperError
from sweeper.grid import lay_out
from sweeper.records import SweepFolder, read_records
from sweeper.spec import Question, RunSpec, Sweep

if TYPE_CHECKING:
    from sweeper.table import Table

# `sweeper.table` and `sweeper.analysis` bring pandas and scipy: only the commands that need them import them.


def open_sweep(name: str, overrides: Sequence[str], runs: Path) -> tuple[Sweep, tuple[RunSpec, ...], SweepFolder]:
    """A sweep with its cells and its folder; its notes say what became of cells too."""
    sweep = load_sweep(name, overrides)
    expansion = lay_out(sweep)
    return replace(sweep, notes=sweep.notes + expansion.notes), expansion.specs, SweepFolder(runs, sweep.name)


def collect_sweep(specs: tuple[RunSpec, ...], folder: SweepFolder) -> Path:
    """Write `results.csv` and `results.parquet` of the cells that have a record; returns the CSV's path."""
    from sweeper.table import results, write_results

    return write_results(results(read_records(folder).values(), specs), folder.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysed:
    """A table with the question to it, wherever it came from."""

    title: str
    table: "Table"
    question: Question
    specs: tuple[RunSpec, ...] = ()
    """The cells of the sweep; none for a file."""
    folder: SweepFolder | None = None
    """None for a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was typed about columns and fits; empty values leave the question of the sweep as it is."""

    lr: str = ""
    mapping: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    per: tuple[str, ...] = ()
    laws: tuple[str, ...] = ()
    curves: tuple[str, ...] = ()
    baseline: str = ""
    where: str = ""


def open_source(source: str, overrides: Sequence[str], runs: Path, asked: Asked) -> Analysed:
    """The results of a sweep, or a file, with the question to them."""
    from sweeper import analysis, table

    if not is_table(source):
        if asked.mapping:
            raise SweeperError("--map renames columns of a file, but the source is a sweep; leave it out")
        sweep, specs, folder = open_sweep(source, overrides, runs)
        records = read_records(folder)
        rows = table.results(records.values(), specs)
        if rows.empty and records:
            raise SweeperError(
                f"{folder.path} holds {len(records)} results, none of them for this grid of {len(specs)} cells; "
                "give the overrides of the launch, or launch it"
            )
        if rows.empty:
            raise SweeperError(f"{folder.path} holds no results; launch the sweep, or name the folder of its --runs")
        rows = table.where(rows, asked.where) if asked.where else rows
        question = _asked_of(analysis.of_rate(sweep.question, asked.lr), asked)
        return Analysed(title=sweep.name, table=rows, question=question, specs=specs, folder=folder)
    if overrides:
        raise SweeperError(f"overrides such as {overrides[0]!r} belong to a sweep, but {source} is a file; use --where")
    rows = table.read_table(Path(source), _mapping(asked.mapping))
    rows = table.where(rows, asked.where) if asked.where else rows
    question = analysis.file_question(
        rows,
        by=asked.by,
        per=asked.per,
        laws=asked.laws,
        curves=asked.curves,
        baseline=asked.baseline,
        lr=asked.lr,
    )
    return Analysed(title=source, table=rows, question=question)


def is_table(source: str) -> bool:
    """Whether a source is a file of results rather than a sweep."""
    return source.removesuffix(".gz").endswith((".csv", ".tsv", ".jsonl", ".parquet"))


def _asked_of(question: Question, asked: Asked) -> Question:
    """A sweep's question with what was typed in its place."""
    typed = {
        "by": asked.by,
        "per": asked.per,
        "laws": asked.laws,
        "curves": asked.curves,
        "baseline": asked.baseline,
    }
    return replace(question, **{name: value for name, value in typed.items() if value})  # type: ignore[arg-type]


def _mapping(pairs: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            raise SweeperError(f"--map {pair!r}: expected our name, an equals sign and the file's, such as tokens=D")
        found[ours] = theirs
    return found
