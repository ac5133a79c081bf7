"""The trainer of a sweep: the values that it names itself, and its template held against what a run will have."""

from collections.abc import Iterator, Mapping
from typing import Any

from sweeper.arguments import FACTS, FACTS_OF_THE_MODEL, PLACES, placeholders
from sweeper.columns import COLUMNS
from sweeper.config.keys import SHARED_SETTINGS, SWEEP_KEYS
from sweeper.config.locate import conf_folders, group_options
from sweeper.config.source import Source
from sweeper.errors import ConfigError
from sweeper.expressions import CONSTANTS
from sweeper.grid.axes import check_derived, flat_grids, written
from sweeper.grid.computed import COMPUTED
from sweeper.grid.leaves import NAMES, SECTIONS, VALUES, leaf
from sweeper.spec import Grid, Trainer
from sweeper.typed import build, did_you_mean

WITHOUT_A_MODEL: dict[str, Any] = {"context": 1}
"""The model of a run that describes none: every batch is a multiple of its context."""
_COLUMNS_OF_THE_MODEL = ("width", "depth", "top_k", "sparsity")


def commands(source: Source) -> bool:
    """Whether a command trains, or is meant to: `argv` without its kind is refused by the trainer itself."""
    trainer = source.values.get("trainer")
    return isinstance(trainer, Mapping) and (trainer.get("kind") == "command" or "argv" in trainer)


def read_trainer(source: Source) -> Trainer:
    """The trainer of a composed configuration.

    A command `models` where the sweep chooses a model or sets one of its values, unless it says so itself.

    Raises:
        ConfigError: A setting of the wrong type, or a value whose name means something else already.
    """
    values = source.values.get("trainer") or {}
    if isinstance(values, Mapping) and values.get("kind") == "command":
        models = source.chooses("model") or any(o.path.startswith("model.") for o in source.overrides)
        values = {"models": models, **values}
        argv = values.get("argv")
        for i, item in enumerate(argv if isinstance(argv, list) else ()):
            if isinstance(item, Mapping):  # [--lr, {lr}]: braces are YAML's own
                name = next(iter(item), "")
                raise ConfigError(
                    f'{source.place(f"trainer.argv[{i}]")}: {{{name}}} is read as a mapping; quote it: "{{{name}}}"'
                )
    trainer = build(Trainer, values, "trainer", place=source.place)
    for name, _ in trainer.values:
        _check_name(name, trainer, source)
    return trainer


def _check_name(name: str, trainer: Trainer, source: Source) -> None:
    """Refuse the name of a value that no expression could read, or that means something else."""
    place = source.place(f"{VALUES}{name}")
    if not name.isidentifier() or name in CONSTANTS:
        raise ConfigError(f"{place}: {name!r} cannot be read as a name; use letters, digits and _")
    groups = group_options(conf_folders())
    columns = COLUMNS.keys() - (() if trainer.models else _COLUMNS_OF_THE_MODEL)
    taken = {*SWEEP_KEYS, *SHARED_SETTINGS, *COMPUTED, *PLACES, *FACTS, *groups, *columns, "arm"}
    if name in taken or (name in NAMES and _stands(leaf(name, place).path, trainer, source)):
        raise ConfigError(f"{place}: {name!r} means something else in every sweep; choose another name")


def _stands(path: str, trainer: Trainer, source: Source) -> bool:
    """Whether a setting is one that the sweep speaks of, rather than a default of a group that it leaves out."""
    section = path.partition(".")[0]
    if section not in SECTIONS or section in ("seed", "trainer"):
        return True
    return trainer.models if section == "model" else source.chooses(section) or source.says(path)


def check_trainer(trainer: Trainer, grid: Grid, source: Source) -> None:
    """Refuse a template or a grid that speaks of what the runs of this trainer do not have.

    Raises:
        ConfigError: An unknown placeholder, one of a group that the sweep does not choose, or a grid over the model
            where none is described.
    """
    if trainer.kind == "builtin":
        return
    flat = flat_grids(grid)
    varied = {path for each in flat for target in written(each, "axes") for path in target.writes}
    if not trainer.models:
        _check_without_a_model(varied, flat, source)
    own = dict(trainer.values)
    for i, text in enumerate(trainer.argv):
        place = source.place(f"trainer.argv[{i}]")
        for name in placeholders(text, place):
            if name in PLACES or name in own:
                continue
            if name in FACTS:
                if name in FACTS_OF_THE_MODEL and not trainer.models:
                    raise ConfigError(
                        f"{place}: {{{name}}} follows from the model, and the sweep chooses none; choose a model"
                    )
                continue
            if name not in NAMES and not name.startswith(VALUES):
                hint = did_you_mean(name, [*PLACES, *own, *FACTS, *NAMES])
                raise ConfigError(f"{place}: unknown placeholder {{{name}}}; {hint}")
            path = leaf(name, place, own=own).writes[-1]
            if path not in varied and not path.startswith(VALUES) and not _stands(path, trainer, source):
                group, _, setting = path.partition(".")
                hint = f"choose one, or give {VALUES}{setting} a value"
                raise ConfigError(
                    f"{place}: {{{name}}} is a setting of the group {group}, which the sweep leaves out; {hint}"
                )


def _check_without_a_model(varied: set[str], grids: tuple[Grid, ...], source: Source) -> None:
    hint = "choose a model, or name a value of the trainer's own"
    for path in sorted(varied):
        if path.startswith("model."):
            label = leaf(path, "").label
            place = source.place(f"axes.{label}")
            raise ConfigError(f"{place}: the sweep chooses no model whose {label} could vary; {hint} ({VALUES}{label})")
    for place, text in _expressions(grids, source):
        for name in sorted(check_derived(text, place, source.own).names & FACTS_OF_THE_MODEL):
            raise ConfigError(f"{place}: {name} follows from the model, and the sweep chooses none; {hint}")


def _expressions(grids: tuple[Grid, ...], source: Source) -> Iterator[tuple[str, str]]:
    for grid in grids:
        for key, text in grid.derive:
            yield source.place(f"derive.{leaf(key, '').label}"), str(text)
        for text in grid.where:
            yield source.place("where"), text
