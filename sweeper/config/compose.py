"""A sweep file composed with its groups and overrides by Hydra: the only module that imports Hydra and OmegaConf.

Names are resolved before it and types checked after it; its own errors become one sentence of ours.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast, get_args, get_origin

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweeper.config.keys import SWEEP_KEYS
from sweeper.config.locate import conf_folders, group_options, shown
from sweeper.config.overrides import Override
from sweeper.config.source import Source
from sweeper.errors import ConfigError
from sweeper.expressions import compile_expression
from sweeper.grid.computed import COMPUTED
from sweeper.grid.leaves import NAMES, SEED, leaf, varies
from sweeper.spec import Value
from sweeper.typed import convert, did_you_mean

Composed = Callable[[tuple[Override, ...]], Source]

WITHOUT_ITS_OWN = tuple(
    f"~hydra/{group}"
    for group in ("env", "help", "hydra_help", "hydra_logging", "job_logging", "launcher", "output", "sweeper")
)
"""Hydra's own groups, which only its command line needs, left out: they take a third of the time."""


@contextmanager
def composer(file: Path) -> Iterator[Composed]:
    """Composes the sweep of a file with overrides; Hydra's global state is as before when it closes.

    Raises:
        ConfigError: A file that is no YAML, an unknown group, option or key of a sweep.
    """
    folders = tuple(dict.fromkeys((file.parent, *conf_folders(file))))
    groups = group_options(folders)
    search = f"hydra.searchpath=[{','.join(_quoted(f'file://{folder}') for folder in folders[1:])}]"
    chosen: set[str] = set()

    def composed(overrides: tuple[Override, ...]) -> Source:
        # Hydra takes one choice of a group that the sweep's own list of defaults lacks.
        last = {override.path: override for override in overrides if override.kind == "group"}
        kept = [override for override in overrides if last.get(override.path, override) is override]
        texts = [text for override in kept for text in _in_hydras_grammar(override, groups, chosen)]
        with _one_sentence(file, groups):
            config = compose(file.stem, [search, *WITHOUT_ITS_OWN, *texts], return_hydra_config=True)
            choices = {str(group): str(option) for group, option in config.hydra.runtime.choices.items()}
            OmegaConf.set_struct(config, False)
            del config["hydra"]
            from_outside = tuple(_reading_the_environment(OmegaConf.to_container(config)))
            values = cast(dict[Any, Any], OmegaConf.to_container(config, resolve=True))
        model = values.get("model")
        if isinstance(model, dict) and model.get("vocab") == "???":
            del model["vocab"]  # OmegaConf's mark for what the group leaves to the sweep
        if not overrides:
            chosen.update(choices)
        source = Source(
            values={str(key): value for key, value in values.items()},
            overrides=overrides,
            files=(*_chosen_files(folders, choices), (file, "")),
        )
        for key, text in from_outside:
            # What a launch freezes must not hang on a variable, nor a secret get into a record.
            hint = "write the value, or give it on the command line"
            raise ConfigError(f"{source.place(key)}: {text} reads the environment; {hint}")
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


def _reading_the_environment(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """The keys whose text reads an environment variable."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _reading_the_environment(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _reading_the_environment(item, key)
    elif isinstance(value, str) and "${oc.env:" in value:
        yield key, value


def _chosen_files(folders: Sequence[Path], choices: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """The files of the chosen options, each with where its content is mounted."""
    for group, option in choices.items():
        path = next((path for folder in folders if (path := folder / group / f"{option}.yaml").is_file()), None)
        if path:
            package = re.search(r"^# *@package +(\S+)", path.read_text(), flags=re.MULTILINE)
            mount = package[1] if package else group.replace("/", ".")
            yield path, "" if mount == "_global_" else mount


def _in_hydras_grammar(override: Override, groups: Mapping[str, set[str]], chosen: set[str]) -> list[str]:
    """The override for Hydra; what only the grid understands travels as quoted text."""
    match override.kind:
        case "removal":
            return []
        case "grid":
            return [f"++{override.path}={_quoted(override.value)}"]
        case "setting":
            paths = SEED.writes if override.path == SEED.path else (override.path,)
            value = _setting(override)
            return [f"++{path}={value}" for path in paths]
    if override.path in ("arm", "scale"):
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


def _setting(override: Override) -> str:
    """The value of a setting in Hydra's grammar: text as it stands, a number by our own grammar."""
    text = override.value
    # A list, a mapping, or a value that nothing has declared: as Hydra reads it.
    if "${" in text or override.type == Value or get_origin(override.type) in (tuple, Mapping):
        return text
    counts = int in get_args(override.type) and not text.isidentifier()  # a number, where words are choices too
    if override.type not in (int, float, bool) and not counts:
        return _quoted(text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text)
    expression = compile_expression(text, override.place)
    an_axis = varies(override.path)
    label = leaf(override.path, "").label if an_axis else override.path
    if expression.names:
        if an_axis and expression.names & (COMPUTED.keys() | NAMES):
            raise ConfigError(f"{override.place}: a setting reads no other values; write derive.{label}={text}")
        convert(override.type, text, override.place)
    number = expression({})
    if isinstance(number, list):
        raise ConfigError(f"{override.place}: one value is expected; several are an axis, 'axes.{label}={text}'")
    return _quoted(number) if isinstance(number, str) else repr(number).lower()


def _quoted(text: str) -> str:
    """Text in Hydra's quotes, where a backslash escapes only before a quote."""
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", text)
    return "'" + re.sub(r"(\\+)$", lambda match: match[1] * 2, escaped) + "'"


@contextmanager
def _one_sentence(file: Path, groups: Mapping[str, set[str]]) -> Iterator[None]:
    """Hydra's, OmegaConf's and YAML's errors as one sentence of ours."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{shown(Path(mark.name))}:{mark.line + 1}" if mark else shown(file)
        raise ConfigError(f"{place}: not valid YAML: {error.problem or error.context}; mend the line") from error
    except MissingConfigException as error:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        hint = did_you_mean(option, groups[group]) if group in groups else did_you_mean(group, groups)
        searched = ", ".join(shown(folder) for folder in conf_folders(file))
        raise ConfigError(
            f"{shown(file)}: its defaults name {group}: {option}, which is not in {searched}; {hint}"
        ) from error
    except OverrideParseException as error:
        reason = _first_line(error)
        raise ConfigError(f"override {error.override!r}: cannot be read ({reason}); quote the value") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{shown(file)}: one of the groups that it names is not UTF-8 text; save it as UTF-8"
        ) from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError) as error:
        raise ConfigError(f"{shown(file)}: {_first_line(error)}; mend the file or the override") from error


def _first_line(error: Exception) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first[:1].lower() + first[1:].rstrip(".")
