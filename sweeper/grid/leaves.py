"""The leaves of a base configuration, the settings that an axis may set: their names, paths and types."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from sweeper.errors import ConfigError
from sweeper.expressions import compile_expression
from sweeper.spec import Base, Value
from sweeper.typed import convert, did_you_mean, fields_of

WHOLE_FROM = 1000
"""From here on a count that an expression leaves fractional (tokens: 20.5 * params) goes to the nearest whole."""


MOST_TOKENS = 10**16
"""A thousand times what the largest run has seen, and still exact as a float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One typed value that an axis may set."""

    path: str
    """`model.width`, `lr`; `seed` is both of its seeds."""
    kind: Any
    label: str
    """The shortest name that is no other leaf's: what users write and tables show."""
    writes: tuple[str, ...]
    """The paths it sets: its own, or both seeds."""

    @property
    def key(self) -> str:
        """The name that means this leaf in every sweep."""
        return self.path if self.path.startswith(VALUES) else self.label


VALUES = "trainer.values."
"""Before the name that a sweep gives to a value of its own trainer."""

SECTIONS: Mapping[str, type] = {
    name: cast(type, kind) for name, (kind, _) in fields_of(Base).items() if dataclasses.is_dataclass(kind)
}
"""The groups of settings of a base (`model`, `optimizer`, …) and their classes."""
INNER_SECTIONS: Mapping[str, type] = {
    f"{section}.{name}": cast(type, kind)
    for section, owner in SECTIONS.items()
    for name, (kind, _) in fields_of(owner).items()
    if dataclasses.is_dataclass(kind)
}
"""Those inside them (`model.vectors`), whose settings are labelled with the inner name: `vectors.hetero`."""
SEED = Leaf(path="seed", kind=int, label="seed", writes=("seed.init", "seed.data"))

_FULL_NAMES = ("transfer", "seed", "trainer")
"""Sections whose labels keep the section's name: `transfer.depth` is a switch, `seed.init` half of `seed`."""


def _named_leaves() -> tuple[dict[str, Leaf], dict[str, list[str]]]:
    """The leaf of every name that means one, and the paths of every name that may mean several."""
    sections: dict[str, list[str]] = {}
    for section, kind in SECTIONS.items():
        for name in fields_of(kind):
            hidden = (("data", "fingerprint"), ("trainer", "argv"), ("trainer", "values"))
            if (section, name) not in hidden and f"{section}.{name}" not in INNER_SECTIONS:
                sections.setdefault(name, []).append(section)
    names = {
        name: Leaf(path=name, kind=kind, label=name, writes=(name,))
        for name, (kind, _) in fields_of(Base).items()
        if name not in SECTIONS
    }
    names["seed"] = SEED
    ambiguous: dict[str, list[str]] = {"batch": ["batch_tokens", "transfer.batch"]}
    for name, owners in sections.items():
        owner = "model" if "model" in owners else owners[0] if len(owners) == 1 else ""
        short = bool(owner) and name not in names and name not in SECTIONS and name not in ambiguous
        short = short and owner != "trainer"  # how a command is started, and no axis
        for section in owners:
            path = f"{section}.{name}"
            label = name if short and section == owner and section not in _FULL_NAMES else path
            kind = fields_of(SECTIONS[section])[name][0]
            names[path] = Leaf(path=path, kind=kind, label=label, writes=(path,))
        if short:
            names[name] = names[f"{owner}.{name}"]
        elif not owner:
            ambiguous[name] = [f"{section}.{name}" for section in owners]
    for section, kind in INNER_SECTIONS.items():
        for name, (value_kind, _) in fields_of(kind).items():
            path = f"{section}.{name}"
            label = path.partition(".")[2]
            names[path] = names[label] = Leaf(path=path, kind=value_kind, label=label, writes=(path,))
    return names, ambiguous


_NAMES, _AMBIGUOUS = _named_leaves()

NAMES = frozenset(_NAMES)
"""Every name that means one leaf: its path, its label or both."""
ALL_NAMES = NAMES | _AMBIGUOUS.keys() | SECTIONS.keys()
"""Also the names that `leaf` refuses because they mean several leaves or a whole section."""


def varies(path: str) -> bool:
    """Whether axes may set what lies at `path`."""
    return path in NAMES or path.startswith(VALUES)


def leaf(name: str, where: str, others: Iterable[str] = (), own: Mapping[str, Value] | None = None) -> Leaf:
    """The leaf that `name` means: `model.width`, or `width` where no other leaf is called so.

    The values of the sweep's own trainer come first, then a sweep's keys (`lr`, `tokens`), then the model's (`depth`),
    then any other unique name.

    Args:
        others: Further names that may have been meant.
        own: The values that the trainer declares, by name: an axis takes the type of the declared one. Without them a
            full path (`trainer.values.dropout`) is taken at its word.

    Raises:
        ConfigError: A name without a leaf, or with several.

    >>> leaf("width", "axes").path, leaf("optimizer.momentum", "axes").label
    ('model.width', 'momentum')
    >>> leaf("dropout", "axes", own={"dropout": 0.1}).path
    'trainer.values.dropout'
    """
    short = name.removeprefix(VALUES)
    if own is not None and short in own:
        return _value_leaf(short, type(own[short]))
    if short != name:
        if own is None:
            return _value_leaf(short, Value)
        raise ConfigError(f"{where}: the trainer has no value {short!r}; give trainer.values.{short} its usual value")
    found = _NAMES.get(name)
    if found is not None:
        return found
    section = SECTIONS.get(name) or INNER_SECTIONS.get(name) or INNER_SECTIONS.get(f"model.{name}")
    if section is not None:
        raise ConfigError(
            f"{where}: {name!r} is a group of settings, not one value; name one of its settings "
            f"({name}.{next(iter(fields_of(section)))}) or compare whole groups as arms"
        )
    if name in _AMBIGUOUS:
        raise ConfigError(f"{where}: {name!r} may be {' or '.join(_AMBIGUOUS[name])}; write one of them in full")
    raise ConfigError(f"{where}: no setting {name!r}; {did_you_mean(name, [*NAMES, *others, *(own or ())])}")


def _value_leaf(name: str, kind: Any) -> Leaf:
    return Leaf(path=VALUES + name, kind=kind, label=name, writes=(VALUES + name,))


_POSITIVE = frozenset(
    {"lr", "tokens", "batch_tokens"}
    | {f"model.{name}" for name, (kind, _) in fields_of(SECTIONS["model"]).items() if kind is int}
)
"""Paths of the rates and sizes that the laws divide by and raise to powers."""


def typed(target: Leaf, value: Any, where: str) -> Value:
    """`value` as one of the leaf's type; text for a number is an expression without names.

    Raises:
        ConfigError: A value that does not fit, a size or rate that is not positive, or more tokens than can be meant.

    >>> typed(leaf("tokens", ""), 1e6, "axes.tokens"), typed(leaf("lr", ""), "2*0.01", "axes.lr")
    (1000000, 0.02)
    """
    if type(value) is float:
        # 12 digits, as in a run's identity: what is trained is what is named.
        value = float(f"{value:.12g}")
        if target.kind is int and abs(value) >= WHOLE_FROM and math.isfinite(value):
            value = round(value)
    elif isinstance(value, str) and target.kind in (int, float):
        # YAML writes 2*0.01 in a list as text.
        number = compile_expression(value, where)({})
        if not isinstance(number, str):
            return typed(target, number, where)
    if target.kind is int and target.path.startswith(VALUES) and type(value) is float and not value.is_integer():
        raise ConfigError(f"{where}: {target.path} is declared as a whole number, got {value}; declare it as 0.0, say")
    fitting = type(value) is target.kind and (type(value) is not float or math.isfinite(value))
    made = cast(Value, value if fitting else convert(target.kind, value, where))
    check_range(target.path, made, where)
    return made


def check_range(path: str, value: Value, where: str) -> None:
    """Refuse a size or rate that is not positive, and more tokens than can be meant.

    Raises:
        ConfigError: Such a value; other paths may hold any.
    """
    if path in _POSITIVE and not isinstance(value, str) and value <= 0:
        raise ConfigError(f"{where}: {path.rpartition('.')[2]} must be positive, got {value}")
    if path in ("tokens", "batch_tokens") and not isinstance(value, str) and value > MOST_TOKENS:
        raise ConfigError(f"{where}: {path} must be at most {MOST_TOKENS:.0e}, got {value:.3g}; mend its exponent")
