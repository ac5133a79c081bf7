"""Sweep files, configuration groups and overrides to one typed `Sweep`: the only module that knows Hydra and OmegaConf.

Hydra composes plain mappings; names are resolved before it and types checked after it, so that every error is one
sentence of ours with the file and line, or the override, that it comes from.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from model.config import DataConfig, Execution
from sweeper.errors import ConfigError
from sweeper.expressions import clauses, compile_expression, opened
from sweeper.grid.axes import axis_values, check_derived, check_layout, check_zip, flat_grids, reads_its_base
from sweeper.grid.data import fingerprinted
from sweeper.grid.leaves import NAMES, Leaf, leaf
from sweeper.spec import Arm, Base, Cluster, Entry, Grid, Question, Sweep
from sweeper.typed import build, convert, did_you_mean, fields_of

GRID_KEYS = ("axes", "zip", "union", "derive", "where", "repeat")
BASE_KEYS = tuple(fields_of(Base))
SWEEP_KEYS = (*BASE_KEYS, *GRID_KEYS, "title", "cluster", "execution", "question", "scale", "scales", "arms")

SINGLE_ARM = "base"
"""The arm of a sweep that names none."""


def load_sweep(name: str, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep `name` with the overrides of the command line, every value typed, its data fingerprinted.

    `name` is a file of `./sweeps`, else of the sweeps that ship with this package (`quickstart`, `hyperp/tokens`), or
    the path of a YAML file. Groups are looked up beside the sweep, in `./conf`, then in the `conf/` that ships.

    An override is `key=value`; a later one wins:

    - a group: `model=hyperp_d8`, `cluster=h100`, and `scale=tiny` of the sweep's own scales;
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
    file, label = _find_sweep(name)
    given = tuple(_parse(text, "") for text in overrides)
    for override in given:
        if override.path in ("scales", "arms"):
            raise ConfigError(
                f"override {override.text!r}: {override.path} are written in the sweep file, {_shown(file)}"
            )
    with _composer(file) as composed:
        plain = composed(())
        scales, arms = (_named_overrides(plain.values.get(key), key, _shown(file)) for key in ("scales", "arms"))
        scale = next((o.value for o in reversed(given) if o.path == "scale"), plain.values.get("scale", ""))
        common = _scale_overrides(scale, scales, label)
        head = composed((*common, *given)) if common or given else plain
        sources = {arm: composed((*common, *_each(texts, f"arm {arm}"), *given)) for arm, texts in arms.items()}
        fingerprints: dict[tuple[DataConfig, int], DataConfig] = {}
        built = [_arm(arm, source, fingerprints) for arm, source in (sources or {SINGLE_ARM: head}).items()]
        return Sweep(
            name=label,
            title=convert(str, head.values.get("title", ""), "title", place=head.place),
            arms=tuple(arm for arm, _ in built),
            cluster=build(Cluster, head.values.get("cluster") or {}, "cluster", place=head.place),
            execution=build(Execution, head.values.get("execution") or {}, "execution", place=head.place),
            question=build(Question, head.values.get("question") or {}, "question", place=head.place),
            resolved=_resolved(head, sources),
            notes=tuple(dict.fromkeys(note for _, notes in built for note in notes)),
        )


def sweep_names() -> tuple[str, ...]:
    """Every sweep that `load_sweep` finds by name, sorted."""
    folders = (Path("sweeps"), shipped("sweeps"))
    return tuple(
        sorted({file.relative_to(root).with_suffix("").as_posix() for root in folders for file in root.rglob("*.yaml")})
    )


def shipped(kind: Literal["conf", "sweeps"]) -> Path:
    """The folder of configuration groups or sweeps that comes with this package.

    It stands inside the package in a wheel, at the top level of a clone.
    """
    package = Path(__file__).resolve().parent
    return package / kind if (package / kind).is_dir() else package.parent / kind


# Files and groups


def _find_sweep(name: str) -> tuple[Path, str]:
    """The file of a sweep and the name that it goes by."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"no sweep file {name!r}; give the path of an existing one or the name of a sweep")
        if path.suffix == ".yml":
            raise ConfigError(f"{name}: sweep files end in .yaml; rename it")
        return path.resolve(), path.stem
    for root in (Path("sweeps"), shipped("sweeps")):
        file = root / f"{name}.yaml"
        if name and not path.is_absolute() and ".." not in path.parts and file.is_file():
            return file.resolve(), path.as_posix()
    raise ConfigError(f"no sweep {name!r} in ./sweeps or among those that ship; {did_you_mean(name, sweep_names())}")


def _shown(file: Path) -> str:
    """The path as a user would type it: relative when it lies below the working directory."""
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else str(file)


def _group_folders(file: Path) -> list[Path]:
    """Where groups are looked up, first come, first served."""
    folders = [file.parent, Path("conf").resolve(), shipped("conf")]
    return list(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def _groups(folders: Iterable[Path]) -> dict[str, set[str]]:
    """The options of each group."""
    groups: dict[str, set[str]] = {}
    for folder in folders:
        for option in folder.rglob("*.yaml"):
            group = option.parent.relative_to(folder).as_posix()
            if group != ".":
                groups.setdefault(group, set()).add(option.stem)
    return groups


# Overrides


@dataclass(frozen=True, slots=True, kw_only=True)
class _Override:
    """One `key=value` of the command line, a scale or an arm, its key resolved."""

    text: str
    source: str
    """Where it stands, empty for the command line."""
    path: str
    """`model.depth`, `axes.lr`, `where`; of a group its name."""
    value: str
    kind: Literal["setting", "grid", "removal", "other"]
    type: Any = str
    """Of a setting."""

    @property
    def place(self) -> str:
        return f"override {self.text!r}" + (f" of {self.source}" if self.source else "")


def _parse(text: str, source: str) -> _Override:
    key, equals, value = text.partition("=")
    key = key.strip()
    place = f"override {text!r}" + (f" of {source}" if source else "")

    def override(kind: Literal["setting", "grid", "removal", "other"], path: str, type_: Any = str) -> _Override:
        return _Override(text=text, source=source, path=path, value=value.strip(), kind=kind, type=type_)

    if key.startswith("~"):
        head, _, rest = key[1:].partition(".")
        if head in ("axes", "derive") and rest:
            return override("removal", f"{head}.{leaf(rest, place).path}")
        if head in GRID_KEYS and not rest:
            return override("removal", head)
        raise ConfigError(f"{place}: only the grid's {', '.join(GRID_KEYS)} can be removed; set a value instead")
    key = key.lstrip("+")
    if not equals or not key:
        raise ConfigError(f"{place}: expected key=value, such as lr=0.02 or 'axes.lr=geom(5e-3,0.16,6)'")
    if not value.strip() and _setting_type(key) is not str:
        raise ConfigError(f"{place}: the value is empty; give one")
    head, _, rest = key.partition(".")
    if head in ("axes", "derive") and rest:
        return override("grid", f"{head}.{leaf(rest, place).path}")
    if head in GRID_KEYS:
        if rest:
            raise ConfigError(f"{place}: {head} is set as a whole; write {head}=…")
        return override("grid", head)
    if head in ("scale", "scales", "arms"):
        return override("other", head)
    if key in BASE_KEYS and dataclasses.is_dataclass(fields_of(Base)[key][0]) and key != "seed":
        return override("other", key)
    if key in _OTHER_SECTIONS or "@" in key:
        return override("other", key)
    if key in _OTHER:
        path, kind = _OTHER[key]
        return override("setting", path, kind)
    if head in _OTHER_SECTIONS:
        raise ConfigError(f"{place}: no setting {key!r}; {did_you_mean(key, _OTHER)}")
    return _setting_or_group(key, place, override)


def _setting_or_group(key: str, place: str, override: Callable[..., _Override]) -> _Override:
    groups = _groups([folder for folder in (Path("conf"), shipped("conf")) if folder.is_dir()])
    if key in groups:
        return override("other", key)
    target = leaf(key, place, [*_OTHER, *groups, *GRID_KEYS, "scale"])
    return override("setting", target.path, target.kind)


_OTHER_SECTIONS: Mapping[str, type] = {"cluster": Cluster, "execution": Execution, "question": Question}


def _other_settings() -> dict[str, tuple[str, Any]]:
    """The settings outside the grid by path and, where it is no other's, by name: `execution.threads`, `threads`."""
    paths: dict[str, tuple[str, Any]] = {"title": ("title", str)}
    waiting: list[tuple[str, Any]] = list(_OTHER_SECTIONS.items())
    while waiting:
        prefix, section = waiting.pop()
        for name, (kind, _) in fields_of(section).items():
            path = f"{prefix}.{name}"
            if dataclasses.is_dataclass(kind):
                waiting.append((path, kind))
            else:
                paths[path] = (path, kind)
    last = [path.rpartition(".")[2] for path in paths]
    return paths | {
        path.rpartition(".")[2]: paths[path] for path in list(paths) if last.count(path.rpartition(".")[2]) == 1
    }


_OTHER = _other_settings()


def _setting_type(key: str) -> Any:
    if key in _OTHER:
        return _OTHER[key][1]
    try:
        return leaf(key, "").kind
    except ConfigError:
        return None


def _each(texts: Iterable[str], source: str) -> tuple[_Override, ...]:
    return tuple(_parse(text, source) for text in texts)


def _named_overrides(values: Any, key: str, where: str) -> dict[str, tuple[str, ...]]:
    """The `scales` or `arms` of a sweep file."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {key} maps names to lists of overrides, got {values!r}")
    return {
        str(name): convert(tuple[str, ...], texts if texts is not None else (), f"{where}: {key}.{name}")
        for name, texts in values.items()
    }


def _scale_overrides(scale: str, scales: Mapping[str, Iterable[str]], sweep: str) -> tuple[_Override, ...]:
    if not scale:
        return ()
    if not scales:
        raise ConfigError(f"sweep {sweep} has no scales, got scale={scale}; leave it out")
    if scale not in scales:
        raise ConfigError(f"sweep {sweep} has no scale {scale!r}; {did_you_mean(scale, scales)}")
    return _each(scales[scale], f"scale {scale}")


# Composition


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A composed configuration, and where each of its values comes from."""

    values: Mapping[str, Any]
    overrides: tuple[_Override, ...]
    files: tuple[tuple[Path, str], ...]
    """Every file with the path that its content is mounted at, in the order in which a later one wins."""

    def place(self, path: str) -> str:
        """`sweeps/quickstart.yaml:12: lr`, or the override that set it; of a whole section, all that shaped it."""
        # A group (`model=tiny`) sets every key of its section, but not those of the file that it is laid under.
        exact = [
            o
            for o in self.overrides
            if o.path == path or (o.kind != "other" and path.startswith((f"{o.path}.", f"{o.path}[")))
        ]
        if exact:
            return exact[-1].place
        inside = [o.place for o in self.overrides if o.path.startswith(f"{path}.") or path == "seed" == o.path]
        if inside:
            return f"{path} with {' and '.join(inside)}"
        for file, mount in reversed(self.files):
            line = _line_of(file, mount, path)
            if line is not None:
                return f"{_shown(file)}:{line}: {path}"
        return f"{_shown(self.files[-1][0])}: {path}"


_Composed = Callable[[tuple[_Override, ...]], _Source]


@contextmanager
def _composer(file: Path) -> Iterator[_Composed]:
    """Composes the sweep of a file with overrides; Hydra's global state is as before when it closes."""
    folders = _group_folders(file)
    groups = _groups(folders)
    search = f"hydra.searchpath=[{','.join(_quoted(f'file://{folder}') for folder in folders[1:])}]"
    chosen: set[str] = set()

    def composed(overrides: tuple[_Override, ...]) -> _Source:
        texts = [search, *(text for override in overrides for text in _for_hydra(override, groups, chosen))]
        with _one_sentence(file):
            config = compose(config_name=file.stem, overrides=texts, return_hydra_config=True)
            choices = {str(group): str(option) for group, option in config.hydra.runtime.choices.items()}
            OmegaConf.set_struct(config, False)
            del config["hydra"]
            values = OmegaConf.to_container(config, resolve=True)
        chosen.update(choices)
        source = _Source(
            values={str(key): value for key, value in cast(dict[Any, Any], values).items()},
            overrides=overrides,
            files=_files(file, folders, choices),
        )
        for key in source.values:
            if key not in SWEEP_KEYS:
                hint = did_you_mean(key, SWEEP_KEYS)
                raise ConfigError(f"{source.place(key)}: a sweep has no key {key!r}; {hint}")
        return source

    around = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(file.parent)):
            yield composed
    finally:
        GlobalHydra.instance().hydra = around


def _files(file: Path, folders: Sequence[Path], choices: Mapping[str, str]) -> tuple[tuple[Path, str], ...]:
    """The files of the chosen options and the sweep's own, each with where its content is mounted."""
    found = []
    for group, option in choices.items():
        path = next((path for folder in folders if (path := folder / group / f"{option}.yaml").is_file()), None)
        if path:
            found.append((path, "" if "@package _global_" in path.read_text() else group.replace("/", ".")))
    return (*found, (file, ""))


def _for_hydra(override: _Override, groups: Mapping[str, set[str]], chosen: set[str]) -> list[str]:
    """The override in Hydra's grammar; what only the grid understands travels as quoted text."""
    match override.kind:
        case "removal":
            return []
        case "grid":
            return [f"++{override.path}={_quoted(override.value)}"]
        case "setting":
            value = _setting(override)
            return [f"++{path}={value}" for path in _paths_of(override.path)]
    if override.path == "scale":
        return []
    group = override.path.partition("@")[0]
    if group not in groups:
        raise ConfigError(f"{override.place}: no group {group!r}; {did_you_mean(group, groups)}")
    if override.value not in groups[group]:
        raise ConfigError(
            f"{override.place}: no {group} {override.value!r}; {did_you_mean(override.value, groups[group])}"
        )
    new = "" if override.path in chosen else "+"
    return [f"{new}{override.path}={override.value}"]


def _paths_of(path: str) -> tuple[str, ...]:
    return leaf(path, "").writes if path == "seed" else (path,)


def _setting(override: _Override) -> str:
    """The value of a setting in Hydra's grammar: text as it stands, a number by our own grammar."""
    text = override.value
    if "${" in text:
        return text
    if override.type in (int, float, bool):
        value = compile_expression(text, override.place)
        label = leaf(override.path, "").label if override.path in NAMES else override.path
        if value.names:
            if value.names & ({"params", "predicted_lr", "steps", "flops"} | NAMES) and label in NAMES:
                raise ConfigError(f"{override.place}: a setting reads no other values; write derive.{label}={text}")
            convert(override.type, text, override.place)
        number = value({})
        if isinstance(number, list):
            raise ConfigError(f"{override.place}: one value is expected; several are an axis, 'axes.{label}={text}'")
        return _quoted(number) if isinstance(number, str) else repr(number).lower()
    if getattr(override.type, "__origin__", None) is tuple:
        return text
    return _quoted(text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text)


def _quoted(text: str) -> str:
    """Text in Hydra's quotes, where a backslash escapes only before a quote."""
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", text)
    return "'" + re.sub(r"(\\+)$", lambda match: match[1] * 2, escaped) + "'"


@contextmanager
def _one_sentence(file: Path) -> Iterator[None]:
    """Hydra's, OmegaConf's and YAML's errors as one sentence of ours."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{_shown(Path(mark.name))}:{mark.line + 1}" if mark else _shown(file)
        raise ConfigError(f"{place}: not valid YAML: {error.problem or error.context}; mend the line") from error
    except MissingConfigException as error:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        groups = _groups(_group_folders(file))
        hint = did_you_mean(option, groups[group]) if group in groups else did_you_mean(group, groups)
        raise ConfigError(f"{_shown(file)}: its defaults name {group}: {option}, which no conf/ has; {hint}") from error
    except OverrideParseException as error:
        reason = _first_line(error)
        raise ConfigError(f"override {error.override!r}: cannot be read ({reason}); quote the value") from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError) as error:
        raise ConfigError(f"{_shown(file)}: {_first_line(error)}; mend the file or the override") from error


def _first_line(error: Exception) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first[:1].lower() + first[1:].rstrip(".")


def _line_of(file: Path, mount: str, path: str) -> int | None:
    """The line of a YAML file that sets `path`, or None; `mount` is the path of its content."""
    if mount:
        if path == mount:
            return 1
        if not path.startswith(f"{mount}."):
            return None
        path = path[len(mount) + 1 :]
    return _line_in(_nodes(file.read_text()), re.split(r"\.|\[\d+\]\.?", path.rstrip("]")))


@lru_cache(maxsize=64)
def _nodes(text: str) -> yaml.Node | None:
    """The tree of a YAML text, whose nodes know their lines."""
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _line_in(node: yaml.Node | None, parts: Sequence[str]) -> int | None:
    parts = [part for part in parts if part]
    if not isinstance(node, yaml.MappingNode):
        return None
    for key, value in node.value:
        for end in range(len(parts), 0, -1):
            if key.value == ".".join(parts[:end]):
                line: int = key.start_mark.line + 1
                return line if end == len(parts) else _line_in(value, parts[end:]) or line
    return None


# From mappings to types


def _arm(name: str, source: _Source, fingerprints: dict[tuple[DataConfig, int], DataConfig]) -> tuple[Arm, list[str]]:
    """An arm, and what its overrides did to the grid."""
    edited, notes = _edited(_grid_values(source), source)
    base, unset = _base(source)
    grid = _grid(edited, base, unset, source)
    if unset:
        base = dataclasses.replace(base, **_first_values(unset, grid, source))
    key = (base.data, base.model.vocab)
    if key not in fingerprints:
        fingerprints[key] = fingerprinted(*key, source.place("data"))
    base = dataclasses.replace(base, data=fingerprints[key])
    prefix = "" if name == SINGLE_ARM else f"arm {name}: "
    return Arm(name=name, base=base, grid=grid), [prefix + note for note in notes]


def _base(source: _Source) -> tuple[Base, frozenset[str]]:
    """The base values, and which of `lr`, `tokens`, `batch_tokens` are left to the grid (they hold a placeholder)."""
    values = {key: source.values[key] for key in BASE_KEYS if key in source.values}
    if isinstance(values.get("seed"), int) and not isinstance(values["seed"], bool):
        values["seed"] = {"init": values["seed"], "data": values["seed"]}
    unset = frozenset(name for name in ("lr", "tokens", "batch_tokens") if values.get(name) is None)
    values |= dict.fromkeys(unset, 1)
    for name, (kind, _) in fields_of(Base).items():
        if dataclasses.is_dataclass(kind):
            values[name] = build(kind, values.get(name) or {}, name, place=source.place)  # type: ignore[arg-type]
    base = build(Base, values, "", place=source.place)
    for name in ("lr", "tokens", "batch_tokens"):
        if not 0 < getattr(base, name) < math.inf:
            raise ConfigError(f"{source.place(name)}: {name} must be positive, got {getattr(base, name)}")
    return base, unset


def _first_values(unset: frozenset[str], grid: Grid, source: _Source) -> dict[str, Any]:
    """The values that stand in a base where only the grid gives them: an axis's first."""
    given: dict[str, Any] = {}
    for flat in flat_grids(grid):
        for key, values in [*flat.axes, *(entry for group in flat.zip for entry in group)]:
            given.setdefault(key, values[0])
        for key, _ in flat.derive:
            given.setdefault(key, 1)
    for name in ("lr", "tokens", "batch_tokens"):
        if name in unset and name not in given:
            raise ConfigError(f"{source.place(name)}: the sweep sets no {name}; add a value or an axis")
    return {name: given[name] for name in unset}


def _resolved(head: _Source, arms: Mapping[str, _Source]) -> str:
    """What was composed as YAML: every arm whole, nothing that an override pinned or replaced."""

    def plain(grid: _GridValues) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "axes": {target.label: value for target, value in grid.axes.values()},
            "zip": [{target.label: value for target, value in group.values()} for group in grid.zip],
            "derive": {target.label: value for target, value in grid.derive.values()},
            "where": list(grid.where),
            "repeat": grid.repeat,
            "union": [plain(branch) for branch in grid.union],
        }
        return {key: value for key, value in parts.items() if value and (key, value) != ("repeat", 1)}

    def whole(source: _Source) -> dict[str, Any]:
        rest = {
            key: value for key, value in source.values.items() if key not in (*GRID_KEYS, "scale", "scales", "arms")
        }
        return rest | plain(_edited(_grid_values(source), source)[0])

    values = {"arms": {name: whole(source) for name, source in arms.items()}} if arms else whole(head)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _GridValues:
    """The parts of a grid before their values are checked: leaf and raw value by path."""

    axes: Mapping[str, tuple[Leaf, Any]]
    derive: Mapping[str, tuple[Leaf, Any]]
    zip: tuple[Mapping[str, tuple[Leaf, Any]], ...]
    where: tuple[str, ...]
    repeat: Any
    union: tuple["_GridValues", ...]
    path: str


def _grid_values(source: _Source) -> _GridValues:
    return _grid_part({key: source.values[key] for key in GRID_KEYS if key in source.values}, "", source)


def _grid_part(values: Mapping[str, Any], path: str, source: _Source) -> _GridValues:
    def at(key: str) -> str:
        return f"{path}.{key}" if path else key

    for key in values:
        if key not in GRID_KEYS:
            raise ConfigError(f"{source.place(at(key))}: a grid has no key {key!r}; {did_you_mean(key, GRID_KEYS)}")

    def read(key: str) -> Any:
        value = values.get(key)
        return opened(value, source.place(at(key))) if isinstance(value, str) else value

    zips, unions = read("zip") or [], read("union") or []
    for key, items in (("zip", zips), ("union", unions)):
        if not isinstance(items, list | Mapping):
            raise ConfigError(f"{source.place(at(key))}: expected a list of mappings, got {items!r}")
    return _GridValues(
        axes=_entries(read("axes"), at("axes"), source),
        derive=_entries(read("derive"), at("derive"), source),
        zip=tuple(_entries(group, at("zip"), source) for group in ([zips] if isinstance(zips, Mapping) else zips)),
        where=_conditions(values.get("where"), at("where"), source),
        repeat=values.get("repeat", 1),
        union=tuple(
            _grid_part(_mapping(branch, at(f"union[{i}]"), source), at("union"), source)
            for i, branch in enumerate([unions] if isinstance(unions, Mapping) else unions)
        ),
        path=path,
    )


def _mapping(values: Any, path: str, source: _Source) -> Mapping[str, Any]:
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source.place(path)}: expected a mapping of names to values, got {values!r}")
    return values


def _entries(values: Any, path: str, source: _Source) -> dict[str, tuple[Leaf, Any]]:
    """The entries by the path of their leaf; of two spellings of one leaf, an override's wins."""
    overridden = {o.path for o in source.overrides if o.kind == "grid"}
    entries: dict[str, tuple[Leaf, Any]] = {}

    def add(prefix: str, nested: Mapping[str, Any]) -> None:
        for key, value in nested.items():
            name = f"{prefix}.{key}" if prefix else str(key)
            if isinstance(value, Mapping):
                add(name, value)
                continue
            target = leaf(name, source.place(f"{path}.{name}"))
            if target.path in entries and f"{path}.{target.path}" not in overridden:
                raise ConfigError(f"{source.place(f'{path}.{name}')}: {target.label!r} is given twice; keep one")
            entries[target.path] = (target, value)

    add("", _mapping(values, path, source))
    return entries


def _conditions(values: Any, path: str, source: _Source) -> tuple[str, ...]:
    if values is None:
        return ()
    if isinstance(values, str):
        return clauses(values, source.place(path))
    return convert(tuple[str, ...], values, path, place=source.place)  # type: ignore[no-any-return]


def _edited(grid: _GridValues, source: _Source) -> tuple[_GridValues, list[str]]:
    """The grid after the overrides' removals and pins, with a sentence about each that a user may not expect."""
    last: dict[str, tuple[str, _Override]] = {}
    for override in source.overrides:
        head, _, rest = override.path.partition(".")
        if override.kind == "setting" and override.path in NAMES:
            last[override.path] = ("pin", override)
        elif override.kind == "grid" and rest:
            last[rest] = (head, override)
        elif override.kind == "grid" and head in ("axes", "derive", "zip"):
            entries = {"axes": (grid.axes,), "derive": (grid.derive,), "zip": grid.zip}[head]
            last |= {path: (head, override) for group in entries for path in group}
        elif override.kind == "removal":
            last[rest or head] = (f"remove {head}", override)
    notes: list[str] = []
    for path, (action, override) in last.items():
        if path in GRID_KEYS:
            empty: dict[str, Any] = {"repeat": 1, "axes": {}, "derive": {}}
            grid = dataclasses.replace(grid, **{path: empty.get(path, ())})
            continue
        target = leaf(path, override.place)
        if action.startswith("remove") and path not in (grid.axes if action == "remove axes" else grid.derive):
            raise ConfigError(f"{override.place}: the sweep has no {override.path}; leave it out")
        grid = _without(grid, target, action, override, notes)
    return grid, notes


def _without(
    grid: _GridValues, target: Leaf, action: str, override: _Override, notes: list[str], branch: bool = False
) -> _GridValues:
    """The grid without the entries that the override of `target` takes the place of.

    `action` is the part that the override set (`axes`, `derive`, `zip`), `pin` for a setting, or `remove <part>`.
    """

    def rest(entries: Mapping[str, tuple[Leaf, Any]], part: str) -> dict[str, tuple[Leaf, Any]]:
        kept = {}
        for path, (other, value) in entries.items():
            text = _text(value)
            stays = (
                not set(target.writes) & set(other.writes)
                or (action == part and not branch)
                or (action.startswith("remove") and action != f"remove {part}")
                or (action == "pin" and part == "derive" and _reads_its_base(target, text, override))
            )
            if stays:
                kept[path] = (other, value)
            elif action == "pin":
                notes.append(f"{override.place} pins {target.label}; the sweep's {text} is left out")
            elif not action.startswith("remove"):
                notes.append(f"{override.place} takes the place of {part}.{other.label} = {text}")
        return kept

    return dataclasses.replace(
        grid,
        axes=rest(grid.axes, "axes"),
        derive=rest(grid.derive, "derive"),
        zip=tuple(group for each in grid.zip if (group := rest(each, "zip"))),
        union=tuple(_without(each, target, action, override, notes, branch=True) for each in grid.union),
    )


def _reads_its_base(target: Leaf, text: str, override: _Override) -> bool:
    return reads_its_base(target.path, check_derived(text, override.place))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _grid(grid: _GridValues, base: Base, unset: frozenset[str], source: _Source) -> Grid:
    """The typed grid, every axis evaluated and every derived expression checked."""

    def at(part: str) -> str:
        return f"{grid.path}.{part}" if grid.path else part

    def values(target: Leaf, value: Any, part: str) -> Entry:
        place = source.place(at(f"{part}.{target.label}"))
        if value is None or isinstance(value, str):
            if value is None:
                raise ConfigError(f"{place}: the axis is empty; give it at least one value, or remove it")
        elif not isinstance(value, list):
            value = [value]
        if isinstance(value, str) and target.kind in (int, float):
            _refuse_unset(value, unset, place)
        return target.label, axis_values(target.path, value, base, place)

    def derived(target: Leaf, value: Any) -> Entry:
        place = source.place(at(f"derive.{target.label}"))
        text = f"[{', '.join(map(_text, value))}]" if isinstance(value, list) else _text(value)
        _refuse_unset(text, unset, place)
        return target.label, text

    zips = []
    for group in grid.zip:
        entries = tuple(values(target, value, "zip") for target, value in group.values())
        check_zip([(key, len(taken)) for key, taken in entries], source.place(at("zip")))
        zips.append(entries)
    for text in grid.where:
        check_derived(text, source.place(at("where")))
    count = grid.repeat
    if isinstance(count, str) and not (counted := compile_expression(count, source.place(at("repeat")))).names:
        count = counted({})
    count = convert(int, count, at("repeat"), place=source.place)
    if count < 1:
        raise ConfigError(f"{source.place(at('repeat'))}: repeat must be at least 1, got {count}")
    made = Grid(
        axes=tuple(values(target, value, "axes") for target, value in grid.axes.values()),
        zip=tuple(zips),
        derive=tuple(derived(target, value) for target, value in grid.derive.values()),
        where=grid.where,
        repeat=count,
        union=tuple(_grid(branch, base, unset, source) for branch in grid.union),
    )
    if not grid.path:
        check_layout(made, source.place("axes"))
    return made


def _refuse_unset(text: str, unset: frozenset[str], place: str) -> None:
    """Refuse an expression that reads a base value which the sweep does not give."""
    expression = check_derived(text, place)
    read = expression.names | ({"lr"} if "predicted_lr" in expression.names else set())
    if read & unset & {"lr"}:
        raise ConfigError(f"{place}: {text!r} starts from lr, which the sweep does not set; add lr: … to it")
