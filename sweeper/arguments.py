"""The program and arguments of a command trainer: a template, and what its placeholders stand for; pure."""

import operator
import string
from collections.abc import Callable, Mapping
from typing import Any

from model.shape import model_shape
from sweeper.errors import ConfigError
from sweeper.grid.leaves import VALUES, leaf
from sweeper.spec import RunSpec, Value, float_text

PLACES: Mapping[str, str] = {
    "run": "folder of the run; its attempts live below it",
    "spec": "path of spec.json: the run, complete",
    "result": "path where the command writes its result",
    "metrics": "path where it may write a JSON object per line as it goes",
    "checkpoints": "folder that stays over the attempts at a run",
    "python": "the Python that runs this package",
}
"""Placeholders that are known only where a run is carried out."""

FACTS: Mapping[str, Callable[[RunSpec], Value]] = {
    "run_id": lambda spec: spec.run_id,
    "steps": lambda spec: spec.train.steps,
    "lr_peak": lambda spec: spec.lr_peak,
    "params": lambda spec: model_shape(spec.train.model).params,
    "params_total": lambda spec: model_shape(spec.train.model).params_total,
    "flops_per_token": lambda spec: model_shape(spec.train.model).flops_per_token,
    "flops": lambda spec: model_shape(spec.train.model).flops_per_token * spec.train.tokens,
}
"""Placeholders that follow from the settings of a run."""

FACTS_OF_THE_MODEL = frozenset({"params", "params_total", "params_paper_total", "flops_per_token", "flops"})
"""What says nothing where the `model` group does not describe what is trained."""


def placeholders(text: str, where: str) -> tuple[str, ...]:
    """The names in braces of one argument; doubled braces are literal.

    Raises:
        ConfigError: A single brace, or something else than a name between braces.

    >>> placeholders("--set={{lr: {lr_peak}}}", "argv")
    ('lr_peak',)
    """
    try:
        parts = [(name, bool(form or conversion)) for _, name, form, conversion in string.Formatter().parse(text)]
    except ValueError as error:
        raise ConfigError(f"{where}: {text!r} has a single brace; double it ('{{{{') if it is meant") from error
    names = []
    for name, more in parts:
        if name is None:
            continue
        if more or not all(word.isidentifier() for word in name.split(".")):
            hint = "double literal braces, and compute values by derive"
            raise ConfigError(f"{where}: {text!r} has more than a name between braces; {hint}")
        names.append(name)
    return tuple(names)


def arguments(spec: RunSpec, places: Mapping[str, str]) -> tuple[str, ...]:
    """The program and arguments of one run, every placeholder filled.

    Args:
        spec: A run whose trainer is a command.
        places: The value of each of `PLACES`.

    Raises:
        ConfigError: A placeholder that means nothing; planning has refused it before.
    """
    where = f"run {spec.run_id}: trainer.argv"
    filled = []
    for text in spec.trainer.argv:
        values = {name: _value(name, spec, places, where) for name in placeholders(text, where)}
        filled.append(
            "".join(
                literal + ("" if name is None else values[name])
                for literal, name, _, _ in string.Formatter().parse(text)
            )
        )
    return tuple(filled)


def _value(name: str, spec: RunSpec, places: Mapping[str, str], where: str) -> str:
    own = dict(spec.trainer.values)
    if name in places:
        return places[name]
    if name in own:
        return as_argument(own[name])
    if name in FACTS:
        return as_argument(FACTS[name](spec))
    path = leaf(name, where, own=own).writes[-1]
    if path.startswith(VALUES):
        return as_argument(own[path.removeprefix(VALUES)])
    above: Any = spec if path.partition(".")[0] in ("lr", "transfer", "trainer") else spec.train
    return as_argument(operator.attrgetter(path)(above))


def as_argument(value: Value) -> str:
    """A value as a program reads it; one identity has one text.

    >>> [as_argument(value) for value in (0.1, 1e-05, 64.0, True, "a b")]
    ['0.1', '1e-05', '64', 'true', 'a b']
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return float_text(value) if isinstance(value, float) else str(value)
