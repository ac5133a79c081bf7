"""Plain mappings (YAML, JSON) to frozen dataclasses and back: nothing untyped passes this door.

A library would do the checking; what is ours is the message: one sentence with the place, the value and the
nearest valid name.
"""

import dataclasses
import difflib
import math
import types
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from sweeper.errors import ConfigError

T = TypeVar("T")
EXACT = frozenset({str, int, bool})
"""Types whose values need no look once they have the type: thousands of records are read at a time."""
Place = Callable[[str], str]
"""What an error names for the path of a bad value."""


CHOICES_CUTOFF = 0.7
"""How alike a word must be to be meant among a few choices: `gpu` is not answered with `cpu`."""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A closing clause that names the nearest known word, or lists them, the nearest ten if there are many.

    >>> did_you_mean("contxt", ["context", "width"])
    "did you mean 'context'?"
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    if near:
        return f"did you mean {near[0]!r}?"
    if len(known) > 20:
        return f"the nearest are {', '.join(difflib.get_close_matches(name, known, n=10, cutoff=0.0))}"
    return f"choose one of {', '.join(known)}"


@cache
def fields_of(kind: Any) -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    """Each field's resolved type and declaration, by name."""
    hints = get_type_hints(kind)
    return {field.name: (hints[field.name], field) for field in dataclasses.fields(kind)}


def build(kind: type[T], values: Mapping[str, Any], where: str, *, place: Place = str) -> T:
    """An instance of the dataclass `kind` from a mapping, every value checked against its field's type.

    `where` is the path of the values (`model`); `place` turns the path of a bad one (`model.width`) into the place
    that its error names, such as a line of a file.

    Raises:
        ConfigError: An unknown or missing key, a value of the wrong type, or one that the class refuses.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{place(where)}: expected settings of {kind.__name__}, got {values!r}")
    known = fields_of(cast(Hashable, kind))

    def path(name: str) -> str:
        return f"{where}.{name}" if where else str(name)

    for name in values:
        if name not in known:
            raise ConfigError(
                f"{place(path(name))}: {kind.__name__} has no setting {name!r}; {did_you_mean(str(name), known)}"
            )
    kinds = {name: known[name][0] for name in values}
    made = {
        name: value if kinds[name] is type(value) in EXACT else convert(kinds[name], value, path(name), place=place)
        for name, value in values.items()
    }
    for name, (_, field) in known.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in made:
            raise ConfigError(f"{place(where)}: {kind.__name__} needs {name!r}; add it")
    try:
        return kind(**made)
    except ValueError as error:
        raise ConfigError(f"{place(where)}: {error}") from error


def convert(kind: Any, value: Any, where: str, *, place: Place = str) -> Any:
    """`value` as the annotated type `kind`; whole floats such as 1e6 count as integers.

    Raises:
        ConfigError: A value of another type.
    """
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _first_that_fits(get_args(kind), value, where, place)
    if origin is Literal:
        if isinstance(value, bool) and (word := "on" if value else "off") in get_args(kind):
            return word  # YAML reads these two words as truth
        if value in get_args(kind) and type(value) in {type(choice) for choice in get_args(kind)}:
            return value
        raise ConfigError(
            f"{place(where)}: got {value!r}; {did_you_mean(str(value), map(str, get_args(kind)), CHOICES_CUTOFF)}"
        )
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ConfigError(f"{place(where)}: expected a list, got {value!r}")
        inner, *rest = get_args(kind)
        if isinstance(value, Mapping) and get_origin(inner) is tuple:
            name_kind, item_kind = get_args(inner)  # a mapping as frozen data: pairs
            return tuple(
                (
                    convert(name_kind, key, f"{where}.{key}", place=place),
                    convert(item_kind, item, f"{where}.{key}", place=place),
                )
                for key, item in value.items()
            )
        if rest == [Ellipsis]:
            return tuple(convert(inner, item, f"{where}[{i}]", place=place) for i, item in enumerate(value))
        items = tuple(value)
        if len(items) != len(get_args(kind)):
            raise ConfigError(f"{place(where)}: expected {len(get_args(kind))} values, got {value!r}")
        return tuple(
            convert(k, item, f"{where}[{i}]", place=place)
            for i, (k, item) in enumerate(zip(get_args(kind), items, strict=True))
        )
    if origin in (Mapping, dict):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a mapping, got {value!r}")
        key_kind, value_kind = get_args(kind)
        return {convert(key_kind, k, where): convert(value_kind, v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else build(kind, value, where, place=place)
    if kind is type(None) and value is None:
        return None
    return _scalar(kind, value, where, place)


def _first_that_fits(kinds: tuple[Any, ...], value: Any, where: str, place: Place) -> Any:
    for kind in kinds:
        if isinstance(kind, type) and type(value) is kind:
            return value
    for kind in kinds:
        try:
            return convert(kind, value, where, place=place)
        except ConfigError:
            continue
    names = " or ".join(name for kind in kinds for name in _names(kind))
    raise ConfigError(f"{place(where)}: expected {names}, got {value!r}")


def _names(kind: Any) -> tuple[str, ...]:
    """What an error calls a part of a union: its type, or its choices."""
    if get_origin(kind) is Literal:
        return tuple(map(str, get_args(kind)))
    return (getattr(kind, "__name__", str(kind)),)


def _scalar(kind: Any, value: Any, where: str, place: Place) -> Any:
    if kind is Any:
        return value
    if isinstance(value, bool) or kind is bool:
        if kind is bool and isinstance(value, bool):
            return value
    elif kind is int:
        if isinstance(value, int):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
    elif kind is float:
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    elif kind is str and isinstance(value, str):
        return value
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
    raise ConfigError(f"{place(where)}: expected {names.get(kind, kind)}, got {value!r}")


def known_part(kind: Any, value: Any) -> Any:
    """A plain value without the settings that the annotated type does not know, at any depth.

    What a newer version wrote reads like that as far as this one understands it.
    """
    if get_origin(kind) in (Union, types.UnionType):
        classes = [k for k in get_args(kind) if dataclasses.is_dataclass(k)]
        return known_part(classes[0], value) if classes and isinstance(value, Mapping) else value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        known = fields_of(cast(Hashable, kind))
        return {name: known_part(known[name][0], item) for name, item in value.items() if name in known}
    if get_origin(kind) is tuple and get_args(kind)[1:] == (Ellipsis,) and isinstance(value, list):
        return [known_part(get_args(kind)[0], item) for item in value]
    return value


def plain(value: Any) -> Any:
    """A dataclass, mapping or sequence as what JSON knows; NaN and infinities become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in fields_of(cast(Hashable, type(value)))}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
