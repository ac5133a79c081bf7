"""The question of a sweep, held against what its results will hold: no mistake waits for the end of training."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from sweeper.columns import COLUMNS, law_sides, surface_sides
from sweeper.config.source import Source
from sweeper.errors import ConfigError
from sweeper.grid.axes import flat_grids, written
from sweeper.grid.leaves import NAMES, leaf, varies
from sweeper.spec import FIGURE_NAMES, Arm, Question
from sweeper.typed import build, did_you_mean


def read_question(source: Source, arms: Sequence[Arm], names: Collection[str]) -> Question:
    """The question of a sweep, asked of these arms out of all `names` in its file.

    A baseline that is not among them is left out, and leverage with it.

    Raises:
        ConfigError: A column that the results will not have, a law that cannot be read, an unknown figure, or a
            baseline that is no arm.
    """
    question = build(Question, source.values.get("question") or {}, "question", place=source.place)
    columns = _columns(source, arms)
    if len(arms) < len(names):  # what only arms that are not kept vary is one value
        by, per = (tuple(n for n in of if n in columns or n not in NAMES) for of in (question.by, question.per))
        question = replace(question, by=by, per=per)
    for part in ("by", "per", "joint"):
        for i, name in enumerate(getattr(question, part)):
            _check_column(name, columns, source.place(f"question.{part}[{i}]"))
    for part, sides_of in (("laws", law_sides), ("curves", law_sides), ("surfaces", surface_sides)):
        for i, law in enumerate(getattr(question, part)):
            place = source.place(f"question.{part}[{i}]")
            try:
                sides: tuple[str, ...] = sides_of(law)
            except ValueError as error:
                raise ConfigError(f"{place}: {error}") from error
            for name in sides:
                _check_column(name, columns, place)
    for i, name in enumerate(question.figures):
        if name not in FIGURE_NAMES:
            place = source.place(f"question.figures[{i}]")
            raise ConfigError(f"{place}: no figure {name!r}; {did_you_mean(name, FIGURE_NAMES)}")
    # A curve that only arms tell apart goes by the arm's name.
    if question.baseline and set(question.per) <= {"arm"}:
        if question.baseline not in names:
            hint = did_you_mean(question.baseline, names) if names else "the sweep has no arms; leave the baseline out"
            raise ConfigError(f"{source.place('question.baseline')}: no arm {question.baseline!r}; {hint}")
        if question.baseline not in [arm.name for arm in arms]:
            return replace(question, baseline="")
    return question


def _columns(source: Source, arms: Sequence[Arm]) -> set[str]:
    """The columns of the results: those of every sweep, and what the grids vary or an override pins."""
    varied = {target.label for arm in arms for grid in flat_grids(arm.grid) for target in written(grid, "axes")}
    pinned = {leaf(o.path, o.place).label for o in source.overrides if o.kind == "setting" and varies(o.path)}
    return COLUMNS.keys() | varied | pinned


def _check_column(name: str, columns: Collection[str], place: str) -> None:
    if name in columns:
        return
    if name in NAMES:
        label = leaf(name, place).label
        hint = f"write {label}" if label in columns else f"vary it (axes.{label}), or leave it out of the question"
        raise ConfigError(f"{place}: the results have no column {name!r}; {hint}")
    raise ConfigError(f"{place}: the results have no column {name!r}; {did_you_mean(name, columns)}")
