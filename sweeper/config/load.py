"""A sweep file and overrides to one `Sweep`, every value typed; errors name the line or override to blame."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from model.config import DataConfig, Execution
from sweeper.config.compose import composer
from sweeper.config.edits import edited
from sweeper.config.grid_values import GridValues, read_grid, typed_grid
from sweeper.config.keys import BASE_KEYS, CHOSEN_GROUPS, GRID_KEYS
from sweeper.config.locate import conf_folders, find_sweep, group_options, shown
from sweeper.config.overrides import kept_arms, named_overrides, parse_overrides, scale_texts, scaled_arms
from sweeper.config.question import read_question
from sweeper.config.source import Source
from sweeper.config.trainer import WITHOUT_A_MODEL, check_trainer, commands, read_trainer
from sweeper.errors import ConfigError
from sweeper.grid.axes import flat_grids
from sweeper.grid.data import fingerprinted
from sweeper.grid.leaves import SECTIONS, check_range
from sweeper.spec import Arm, Base, Cluster, Grid, Launch, Sweep, Trainer
from sweeper.typed import build, convert

SINGLE_ARM = "base"
"""The arm of a sweep that names none."""

LEFT_TO_THE_GRID = ("lr", "tokens", "batch_tokens")
"""Settings without a default that a sweep may give by its grid alone."""

Fingerprint = Callable[[DataConfig, int, str], DataConfig]


def load_sweep(name: str, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep `name` with the overrides of the command line, every value typed, its data fingerprinted.

    `name` is a file of `./sweeps`, else of the sweeps that ship with this package (`quickstart`, `hyperp/tokens`), or
    the path of a YAML file. Groups are looked up beside the sweep, in `./conf`, in a `conf/` beside the folder `sweeps`
    that the file lies in, then in the `conf/` that ships.

    An override is `key=value`; a later one wins:

    - a group: `model=hyperp_d8`, `cluster=h100`, and `scale=tiny` of the sweep's own scales;
    - `arm=muon` or `arm=muon,adamw` keeps only these arms of the sweep, and leverage only with its baseline;
    - a setting, by its path or its short name: `model.depth=4`, `depth=4`, `lr=2e-2`, `seed=1` (both seeds). Where
      the grid varies that setting, this pins it; a derived `lr` that reads `predicted_lr` or `lr` keeps its shape and
      moves with it;
    - the grid: `axes.lr=geom(5e-3,0.16,6)`, `derive.tokens=50*params`, `where=width<512`, `zip=…`, `union=…`,
      `repeat=3`, `~axes.lr`. An axis takes the place of a derived value of the same name, and the reverse.

    Each arm is composed as base, scale, arm, command line.

    Raises:
        ConfigError: An unknown sweep, group or key, a value of the wrong type or one that its class refuses.
        DataError: The data cannot be read.
    """
    file, label = find_sweep(name)
    with composer(file) as composed:
        plain = composed(())
        given = parse_overrides(overrides, own=plain.own)
        for override in given:
            if override.path in ("scales", "arms"):
                hint = f"{shown(file)}; use {override.path[:-1]}=NAME, or copy the file"
                raise ConfigError(f"{override.place}: {override.path} are written in the sweep file, {hint}")
        scales, arms = (named_overrides(plain.values.get(key), key, shown(file)) for key in ("scales", "arms"))
        scale = next((o.value for o in reversed(given) if o.path == "scale"), plain.values.get("scale", ""))
        arms, texts = scaled_arms(arms, scale_texts(scale, scales, label), f"scale {scale}")
        common = parse_overrides(texts, f"scale {scale}", plain.own)
        head = composed((*common, *given)) if common or given else plain
        named = {arm: parse_overrides(texts, f"arm {arm}", plain.own) for arm, texts in arms.items()}
        for override in itertools.chain(*named.values()):
            if override.path in ("arm", "arms", "scale", "scales"):
                raise ConfigError(f"{override.place}: an arm chooses no {override.path}; leave it out")
        kept = kept_arms((*common, *given), named, label)
        sources = {arm: composed((*common, *own, *given)) for arm, own in kept.items()}
    for source in (head, *sources.values()):
        _check_chosen(source, file)
    fingerprint = cache(fingerprinted)
    made = [_arm(arm, source, fingerprint) for arm, source in (sources or {SINGLE_ARM: head}).items()]
    return Sweep(
        name=label,
        title=convert(str, head.values.get("title", ""), "title", place=head.place),
        arms=tuple(arm for arm, _ in made),
        cluster=build(Cluster, head.values.get("cluster") or {}, "cluster", place=head.place),
        execution=build(Execution, head.values.get("execution") or {}, "execution", place=head.place),
        launch=build(Launch, head.values.get("launch") or {}, "launch", place=head.place),
        question=read_question(head, [arm for arm, _ in made], tuple(arms)),
        resolved=_resolved(head, sources),
        notes=tuple(dict.fromkeys(note for _, notes in made for note in notes)),
    )


def _arm(name: str, source: Source, fingerprint: Fingerprint) -> tuple[Arm, list[str]]:
    """An arm, and what its overrides did to the grid."""
    values, notes = edited(read_grid(source), source)
    try:
        base, unset = _base(source)
    except ConfigError as error:
        if name == SINGLE_ARM or f"arm {name}" in str(error):
            raise
        raise ConfigError(f"arm {name}: {error}") from error
    grid = typed_grid(values, base, unset, source)
    if unset:
        base = dataclasses.replace(base, **_first_values(unset, grid, source))
    check_trainer(base.trainer, grid, source)
    if base.trainer.kind == "builtin" or source.chooses("data"):
        base = dataclasses.replace(base, data=fingerprint(base.data, base.model.vocab, source.place("data")))
    prefix = "" if name == SINGLE_ARM else f"arm {name}: "
    return Arm(name=name, base=base, grid=grid), [prefix + note for note in notes]


def _base(source: Source) -> tuple[Base, frozenset[str]]:
    """The base values, and which of them are left to the grid (they hold a placeholder)."""
    values = {key: source.values[key] for key in BASE_KEYS if key in source.values}
    if isinstance(values.get("seed"), int) and not isinstance(values["seed"], bool):
        values["seed"] = {"init": values["seed"], "data": values["seed"]}
    unset = frozenset(name for name in LEFT_TO_THE_GRID if values.get(name) is None)
    values |= dict.fromkeys(unset, 1)
    values["trainer"] = trainer = read_trainer(source)
    if trainer.kind == "command" and not source.chooses("transfer"):
        values["transfer"] = {"rule": "none"} | (values.get("transfer") or {})
    if not trainer.models:
        values["model"] = WITHOUT_A_MODEL | (values.get("model") or {})
    for name, kind in SECTIONS.items():
        values[name] = trainer if kind is Trainer else build(kind, values.get(name) or {}, name, place=source.place)
    _check_vocabulary(values["data"], source)
    _check_path(values["data"], source)
    base = build(Base, values, "", place=source.place)
    for name in LEFT_TO_THE_GRID:
        check_range(name, getattr(base, name), source.place(name))
    return base, unset


def _check_chosen(source: Source, file: Path) -> None:
    """Refuse a sweep that leaves a group to the defaults of its classes, which are those of one paper.

    A command trains what it will: it needs but a cluster.
    """
    needed = ("cluster",) if commands(source) else CHOSEN_GROUPS
    missing = [group for group in needed if not source.chooses(group)]
    if missing:
        options = group_options((file.parent, *conf_folders(file)))
        named = " and no ".join(f"{group} ({', '.join(sorted(options.get(group, ())))})" for group in missing)
        hint = f"add an option of each, such as '- {missing[0]}: …'"
        raise ConfigError(f"{shown(file)}: its defaults choose no {named}; {hint}")


def _check_vocabulary(data: DataConfig, source: Source) -> None:
    """Refuse tokens of a tokenizer without its size: too large a vocabulary trains, and nothing else would tell."""
    grid = read_grid(source)
    parts = [part for each in (grid, *grid.union) for part in (each.axes, each.derive, *each.zip)]
    if any("model.vocab" in part for part in parts):
        return
    shards = data.source == "shards" and "vocab" not in (source.values.get("model") or {})
    tokenized = data.source in ("text", "hf") and data.tokenizer != "bytes" and not source.says("model.vocab")
    if shards or tokenized:
        what = "data=shards" if shards else f"data.tokenizer={data.tokenizer}"
        hint = "set model.vocab to the tokenizer's size" + (" (256 for bytes)" if shards else "")
        raise ConfigError(f"{source.place('data')}: {what} needs its vocabulary; {hint}")


def _check_path(data: DataConfig, source: Source) -> None:
    """Refuse a path that nobody reads; one of the sweep file may rest where an override chooses other data."""
    given = {override.path for override in source.overrides}
    if data.path and data.source not in ("text", "shards", "hf") and ("data.path" in given or "data" not in given):
        hint = "choose data=text, data=shards or data=hf, or leave the path out"
        raise ConfigError(f"{source.place('data.path')}: {data.source} reads no path, got {data.path!r}; {hint}")


def _first_values(unset: frozenset[str], grid: Grid, source: Source) -> dict[str, Any]:
    """The values that stand in a base where only the grid gives them: an axis's first."""
    given: dict[str, Any] = {}
    for flat in flat_grids(grid):
        for key, values in [*flat.axes, *(entry for group in flat.zip for entry in group)]:
            given.setdefault(key, values[0])
        for key, _ in flat.derive:
            given.setdefault(key, 1)
    for name in LEFT_TO_THE_GRID:
        if name in unset and name not in given:
            raise ConfigError(f"{source.place(name)}: the sweep sets no {name}; add a value or an axis")
    return {name: given[name] for name in unset}


def _resolved(head: Source, arms: Mapping[str, Source]) -> str:
    """What was composed as YAML: every arm whole, nothing that an override pinned or replaced."""
    values = {"arms": {name: _whole(source) for name, source in arms.items()}} if arms else _whole(head)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _whole(source: Source) -> dict[str, Any]:
    left_out = (*GRID_KEYS, "scale", "scales", "arms")
    rest = {key: value for key, value in source.values.items() if key not in left_out}
    return rest | _as_written(edited(read_grid(source), source)[0])


def _as_written(grid: GridValues) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "axes": {target.label: value for target, value in grid.axes.values()},
        "zip": [{target.label: value for target, value in group.values()} for group in grid.zip],
        "derive": {target.label: value for target, value in grid.derive.values()},
        "where": list(grid.where),
        "repeat": grid.repeat,
        "union": [_as_written(branch) for branch in grid.union],
    }
    return {key: value for key, value in parts.items() if value and (key, value) != ("repeat", 1)}
