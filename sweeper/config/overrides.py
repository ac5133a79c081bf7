"""Overrides of the command line, scales and arms: `key=value`, the key resolved to what it means."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

import yaml

from sweeper.config.keys import GRID_KEYS, SHARED_SECTIONS, SHARED_SETTINGS
from sweeper.config.locate import conf_folders, group_options
from sweeper.errors import ConfigError
from sweeper.grid.leaves import INNER_SECTIONS, SECTIONS, VALUES, Leaf, leaf
from sweeper.typed import convert, did_you_mean

ARMS = "arms."

Kind = Literal["setting", "grid", "removal", "group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One `key=value`, its key resolved."""

    text: str
    source: str
    """Where it stands, empty for the command line."""
    kind: Kind
    """`group` is the choice of a group's option, of a scale, of arms, or a whole section."""
    path: str
    """`model.depth`, `axes.lr`, `where`; of a group its name."""
    value: str
    type: Any
    """Of a setting."""

    @property
    def place(self) -> str:
        return _place(self.text, self.source)


def parse_overrides(
    texts: Iterable[str], source: str = "", own: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Override, ...]:
    """The overrides that stand in `source`; `own` are the values that the sweep's trainer declares.

    Raises:
        ConfigError: An unknown key, or no value.
    """
    return tuple(_parsed(text, source, own) for text in texts)


def named_overrides(values: Any, key: str, where: str) -> dict[str, tuple[str, ...]]:
    """The texts of the `scales` or `arms` of a sweep file.

    Raises:
        ConfigError: Something else than names with lists of text.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {key} maps names to lists of overrides, got {values!r}")
    return {
        str(name): convert(tuple[str, ...], texts if texts is not None else (), f"{where}: {key}.{name}")
        for name, texts in values.items()
    }


def scale_texts(scale: str, scales: Mapping[str, tuple[str, ...]], sweep: str) -> tuple[str, ...]:
    """The texts of the scale that was chosen, if any.

    Raises:
        ConfigError: The sweep has no such scale.
    """
    if not scale:
        return ()
    if not scales:
        raise ConfigError(f"sweep {sweep} has no scales, got scale={scale}; leave it out")
    if scale not in scales:
        raise ConfigError(f"sweep {sweep} has no scale {scale!r}; {did_you_mean(scale, scales)}")
    return scales[scale]


def scaled_arms(
    arms: Mapping[str, tuple[str, ...]], texts: Iterable[str], source: str
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The arms as a scale has them, and its other texts: `arms.NAME=[override, …]` replaces the texts of an arm.

    Raises:
        ConfigError: An arm that the sweep lacks, or no list of texts.
    """
    made, others = dict(arms), []
    for text in texts:
        key, _, value = (part.strip() for part in text.partition("="))
        if not key.startswith(ARMS):
            others.append(text)
            continue
        name, place = key.removeprefix(ARMS), _place(text, source)
        if name not in made:
            raise ConfigError(f"{place}: no arm {name!r}; {did_you_mean(name, arms)}")
        try:
            made[name] = convert(tuple[str, ...], yaml.safe_load(value), place)
        except yaml.YAMLError:
            raise ConfigError(f"{place}: expected a list of overrides, such as {key}=[transfer=none]") from None
    return made, tuple(others)


def kept_arms(
    overrides: Sequence[Override], arms: Mapping[str, tuple[Override, ...]], sweep: str
) -> Mapping[str, tuple[Override, ...]]:
    """The arms that `arm=a,b` keeps, in the order of the file; all of them where no override chooses.

    Raises:
        ConfigError: The sweep has no arms, or none of that name.
    """
    chosen = next((override for override in reversed(overrides) if override.path == "arm"), None)
    if chosen is None:
        return arms
    if not arms:
        raise ConfigError(f"{chosen.place}: sweep {sweep} has no arms; leave it out")
    wanted = [name.strip() for name in chosen.value.strip("[]").split(",")]
    for name in wanted:
        if name not in arms:
            raise ConfigError(f"{chosen.place}: sweep {sweep} has no arm {name!r}; {did_you_mean(name, arms)}")
    return {name: own for name, own in arms.items() if name in wanted}


def _place(text: str, source: str) -> str:
    return f"override {text!r}" + (f" of {source}" if source else "")


def _parsed(text: str, source: str, own: Mapping[str, Any]) -> Override:
    key, equals, value = (part.strip() for part in text.partition("="))
    place = _place(text, source)
    kind: Kind
    if key.startswith("~"):
        kind, path, type_ = "removal", _removed(key[1:], place, own), str
    else:
        key = key.lstrip("+")
        if not equals or not key:
            raise ConfigError(f"{place}: expected key=value, such as lr=0.02 or 'axes.lr=geom(5e-3,0.16,6)'")
        kind, path, type_ = _meant(key, place, own)
        if not value and (kind, type_) != ("setting", str):
            raise ConfigError(f"{place}: the value is empty; give one")
    return Override(text=text, source=source, kind=kind, path=path, value=value, type=type_)


def _removed(key: str, place: str, own: Mapping[str, Any]) -> str:
    head, _, rest = key.partition(".")
    if head in ("axes", "derive") and rest:
        return f"{head}.{_leaf(rest, place, own).path}"
    if head in GRID_KEYS and not rest:
        return head
    raise ConfigError(f"{place}: only the grid's {', '.join(GRID_KEYS)} can be removed; set a value instead")


def _leaf(name: str, place: str, own: Mapping[str, Any], others: Iterable[str] = ()) -> Leaf:
    """The leaf that a key of an override means; one that names a value in full may declare it."""
    declares = name.startswith(VALUES) and name.removeprefix(VALUES) not in own
    return leaf(name, place, others, own=None if declares else own)


def _meant(key: str, place: str, own: Mapping[str, Any]) -> tuple[Kind, str, Any]:
    """What a key sets: the kind, the path, and of a setting its type."""
    head, _, rest = key.partition(".")
    if head in ("axes", "derive") and rest:
        return "grid", f"{head}.{_leaf(rest, place, own).path}", str
    if head in GRID_KEYS:
        if rest:
            raise ConfigError(f"{place}: {head} is set as a whole; write {head}=…")
        return "grid", head, str
    if key in ("arm", "scale") or head in ("scales", "arms"):
        return "group", head, str
    # `seed=1` is a setting, both seeds.
    if key in SHARED_SECTIONS or (key in SECTIONS and key != "seed") or "@" in key:
        return "group", key, str
    if key in SHARED_SETTINGS:
        return "setting", *SHARED_SETTINGS[key]
    mapping, _, entry = key.rpartition(".")
    if mapping in SHARED_SETTINGS and get_origin(SHARED_SETTINGS[mapping][1]) is Mapping:
        path, kind = SHARED_SETTINGS[mapping]
        return "setting", f"{path}.{entry}", get_args(kind)[1]
    if key == "trainer.argv":
        return "setting", key, tuple[str, ...]
    if head in SHARED_SECTIONS:
        raise ConfigError(f"{place}: no setting {key!r}; {did_you_mean(key, SHARED_SETTINGS)}")
    groups = group_options(conf_folders())
    if key in groups:
        return "group", key, str
    last = key.rpartition(".")[2]
    if key in INNER_SECTIONS and last in groups:
        raise ConfigError(
            f"{place}: {key!r} is a group of settings; choose one of its presets by {last}=… "
            f"({', '.join(sorted(groups[last]))}) or set them one by one"
        )
    if head == "grid" and rest:
        raise ConfigError(f"{place}: no setting {key!r}; an axis of the grid is axes.{rest}=…")
    target = _leaf(key, place, own, [*SHARED_SETTINGS, *groups, *GRID_KEYS, "scale", "arm"])
    return "setting", target.path, target.kind
