"""Which runs a command is about: those whose run_id begins so, or those that a condition over their columns keeps."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from sweeper.errors import ConfigError, SweeperError
from sweeper.expressions import compared_texts, compile_expression, select
from sweeper.overview import Row
from sweeper.records import Cause, SweepFolder, read_spec, run_names
from sweeper.spec import RunSpec
from sweeper.status import STATES
from sweeper.typed import did_you_mean

OVERRIDE = re.compile(r"[+~]{0,2}[\w./@:-]+=(?!=)|~[\w./@:-]+$")
RUN_ID = re.compile(r"[0-9a-f]{1,16}$")
ROW_COLUMNS = (
    *("run_id", "arm", "state", "step", "steps", "progress", "attempts", "node", "job", "cause", "reason"),
    *("tokens_per_s", "launched"),
)
WORDS: Mapping[str, tuple[str, ...]] = {"state": STATES, "cause": get_args(Cause)}
"""Columns that hold one of a few words."""
SHOWN = 5
"""Runs, or values, that a message lists."""


def split_words(words: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words after a sweep's name as overrides of the sweep and names of runs.

    >>> split_words(["scale=tiny", "3fa9", "~axes.lr", "lr == 0.1"])
    (('scale=tiny', '~axes.lr'), ('3fa9', 'lr == 0.1'))
    """
    overrides: list[str] = []
    runs: list[str] = []
    for word in words:
        (overrides if OVERRIDE.match(word) else runs).append(word)
    return tuple(overrides), tuple(runs)


def named_one(words: Iterable[str]) -> str:
    """The one of a command's words that names a run.

    Raises:
        SweeperError: None does, or several.
    """
    overrides, runs = split_words(words)
    if len(runs) > 1:
        raise SweeperError(f"one run at a time, but {', '.join(map(repr, runs))} name {len(runs)}; leave one of them")
    if not runs and not overrides:
        raise SweeperError("no run is named; give the start of its run_id, or a condition such as 'lr == 0.01'")
    if not runs:
        raise SweeperError(
            f"no run is named: {overrides[-1]!r} was read as an override of the sweep; a condition is written with =="
        )
    return runs[0]


def with_named(specs: Sequence[RunSpec], folder: SweepFolder, runs: Iterable[str]) -> tuple[RunSpec, ...]:
    """The runs of a grid, and those of the sweep's other grids that are named by a run_id the grid does not know."""
    known = {spec.run_id for spec in specs}
    strange = [word for word in runs if RUN_ID.match(word) and not any(r.startswith(word) for r in known)]
    others = [r for r in run_names(folder) if strange and r.startswith(tuple(strange))]
    return (*specs, *(read_spec(folder, run_id) for run_id in others))


def could_be_named(specs: Sequence[RunSpec], runs: Sequence[str]) -> tuple[RunSpec, ...]:
    """The runs that beginnings of run_ids may mean, so that no others need be looked at; all if they are conditions."""
    if not runs or not all(RUN_ID.match(word) for word in runs):
        return tuple(specs)
    return tuple(spec for spec in specs if spec.run_id.startswith(tuple(runs))) or tuple(specs)


def choose(
    rows: Sequence[Row], specs: Sequence[RunSpec], runs: Iterable[str], where: str = "", *, everything: bool = False
) -> tuple[Row, ...]:
    """The rows that are named or that satisfy a condition, each run once.

    Args:
        specs: Of the rows, in their order.
        runs: Beginnings of run_ids, or conditions.
        where: A condition, such as `depth == 16 and state == 'failed'`.
        everything: Whether every row is meant.

    Raises:
        SweeperError: A run that does not exist, or a beginning that several share.
        ConfigError: A condition that cannot be read, or names an unknown column, state or cause.
    """
    found: dict[str, Row] = {}
    conditions = [("--where", where)] if where else []
    for word in runs:
        if RUN_ID.match(word):
            row = _named(rows, word)
            found[row.run_id] = row
        else:
            conditions.append((f"run {word!r}", word))
    for place, condition in conditions:
        kept = select(condition, columns(rows, specs), place)
        _check_words(condition, place)
        found |= {row.run_id: row for row, keeps in zip(rows, kept, strict=True) if keeps}
    if everything:
        found |= {row.run_id: row for row in rows}
    return tuple(found.values())


def choose_one(rows: Sequence[Row], specs: Sequence[RunSpec], word: str) -> Row:
    """The one run that a word names.

    Raises:
        SweeperError: None or several.
        ConfigError: A condition that cannot be read, or names an unknown column, state or cause.
    """
    found = choose(rows, specs, [word])
    if not found:
        raise SweeperError(none_satisfies(rows, specs, word))
    if len(found) > 1:
        raise SweeperError(f"{len(found)} runs satisfy {word!r}: {_listed(found)}; name one by the start of its run_id")
    return found[0]


def none_satisfies(rows: Sequence[Row], specs: Sequence[RunSpec], *conditions: str) -> str:
    """That no run satisfies conditions, with what the columns that they read hold."""
    held = columns(rows, specs)
    read = sorted({name for condition in conditions for name in compile_expression(condition).names if name in held})
    there = "; ".join(f"{name} is {_values(held[name])}" for name in read)
    number = len({row.run_id for row in rows})
    none = f"none of the {number} runs satisfies" if number > 1 else "the only run does not satisfy"
    return f"{none} {' or '.join(map(repr, conditions))}" + (f": {there}" if there else "")


def _values(column: Sequence[Any]) -> str:
    """The values of a column, or the range of its numbers where they are many."""
    counts = Counter(value for value in column if value is not None and value == value)
    if not counts:
        return "not known of any"
    if len(counts) > SHOWN and all(isinstance(value, int | float) for value in counts):
        return f"{min(counts):g} to {max(counts):g}"
    shown = [f"{value!r} ({number})" for value, number in counts.most_common(SHOWN)]
    return ", ".join(shown) + (f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else "")


def _check_words(condition: str, place: str) -> None:
    """A misspelt word would satisfy nothing, which looks like an answer.

    Raises:
        ConfigError: A state or a cause that does not exist.
    """
    for name, words in WORDS.items():
        for strange in sorted(compared_texts(condition, name) - set(words)):
            hint = did_you_mean(strange, filter(None, words))
            raise ConfigError(f"{place}: no run has the {name} {strange!r}; {hint}")


def columns(rows: Sequence[Row], specs: Sequence[RunSpec]) -> Mapping[str, Sequence[Any]]:
    """What conditions may ask of a run: its axis values, its state and where it stands."""
    axes = dict.fromkeys(name for row in rows for name in row.axes)
    found: dict[str, list[Any]] = {name: [row.axes.get(name) for row in rows] for name in axes}
    models = [spec.train.model for spec in specs]
    found |= {
        "width": [model.width for model in models],
        "depth": [model.depth for model in models],
        "tokens": [row.tokens for row in rows],
        "lr": [spec.lr for spec in specs],
        "lr_peak": [spec.lr_peak for spec in specs],
    }
    # After the axes: an axis that is called so would hide what a person means here.
    found |= {name: [getattr(row, name) for row in rows] for name in ROW_COLUMNS}
    return found | {"loss": [math.nan if row.loss is None else row.loss for row in rows]}


def _named(rows: Sequence[Row], word: str) -> Row:
    found = tuple({row.run_id: row for row in rows if row.run_id.startswith(word)}.values())
    if not found:
        raise SweeperError(
            f"no run of the {len({row.run_id for row in rows})} begins with {word!r}; "
            "`sweeper status --all` lists them, with the overrides of the launch"
        )
    if len(found) > 1:
        raise SweeperError(f"{len(found)} runs begin with {word!r}: {_listed(found)}; give more of the run_id")
    return found[0]


def _listed(rows: Sequence[Row]) -> str:
    shown = [f"{row.run_id} ({row.state}{_setting(row)})" for row in rows[:SHOWN]]
    return ", ".join(shown) + (f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")


def _setting(row: Row) -> str:
    return "".join(f", {name}={value}" for name, value in row.axes.items())
