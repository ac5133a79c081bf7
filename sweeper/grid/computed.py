"""What is computed from the values of a cell: its configurations, and the numbers that expressions may read of them."""

import dataclasses
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from model.shape import ModelShape, model_shape
from sweeper.errors import ConfigError
from sweeper.grid.leaves import NAMES, SECTIONS, VALUES
from sweeper.laws.transfer import predicted_lr, rates
from sweeper.spec import Base, Value
from sweeper.typed import fields_of

Cell = dict[str, Any]
"""The values of one cell by path."""


def base_value(base: Base, path: str) -> Any:
    """The value at `path`, such as `model.width`.

    Raises:
        ConfigError: A value that the trainer does not declare.
    """
    if not path.startswith(VALUES):
        return operator.attrgetter(path)(base)
    own, name = dict(base.trainer.values), path.removeprefix(VALUES)
    if name not in own:
        raise ConfigError(f"the trainer has no value {name!r}; give trainer.values.{name} its usual value")
    return own[name]


def _replaced(section: Any, fields: Cell) -> Any:
    """The section with other values of these fields, `vectors.hetero` among them; of a trainer also its own values."""
    own = {name.removeprefix("values."): fields[name] for name in fields if name.startswith("values.")}
    if own:
        fields = {name: value for name, value in fields.items() if not name.startswith("values.")}
        fields["values"] = tuple((name, own.get(name, value)) for name, value in section.values)
    nested: dict[str, Cell] = {}
    for name in [name for name in fields if "." in name]:
        inner, _, rest = name.partition(".")
        nested.setdefault(inner, {})[rest] = fields[name]
    flat = {name: value for name, value in fields.items() if "." not in name}
    for inner, values in nested.items():
        flat[inner] = _replaced(getattr(section, inner), values)
    return dataclasses.replace(section, **flat)


class Configurations:
    """The configurations of cells over one base, each built once; a class, because its caches live as long as it."""

    def __init__(self, base: Base, written: Collection[str]) -> None:
        self.base = base
        self.written = {
            name: tuple(sorted(path for path in written if path.startswith(f"{name}."))) for name in SECTIONS
        }
        """The paths of each section that cells set."""
        self._sections: dict[str, dict[tuple[Value, ...], Any]] = {name: {} for name in SECTIONS}
        self._shapes: dict[tuple[Value, ...], ModelShape] = {}
        self._predictions: dict[tuple[Any, ...], float] = {}

    def section(self, name: str, cell: Cell) -> Any:
        paths = self.written[name]
        if not paths:
            return getattr(self.base, name)
        values = tuple([cell[path] for path in paths])
        made = self._sections[name].get(values)
        if made is None:
            fields = {path.partition(".")[2]: value for path, value in zip(paths, values, strict=True)}
            made = self._sections[name][values] = _replaced(getattr(self.base, name), fields)
        return made

    def shape(self, cell: Cell) -> ModelShape:
        values = tuple([cell[path] for path in self.written["model"]])
        shape = self._shapes.get(values)
        if shape is None:
            shape = self._shapes[values] = model_shape(self.section("model", cell))
        return shape

    def predicted_lr(self, cell: Cell) -> float:
        transfer = self.section("transfer", cell)
        depth, tokens, batch_tokens = cell["model.depth"], cell["tokens"], cell["batch_tokens"]
        sizes = (depth, tokens, batch_tokens, transfer)
        predicted = self._predictions.get(sizes)
        if predicted is None:
            predicted = self._predictions[sizes] = predicted_lr(
                transfer, lr=self.base.lr, depth=depth, tokens=tokens, batch_tokens=batch_tokens
            )
        return predicted

    def lr_peak(self, cell: Cell) -> float:
        return rates(
            self.section("transfer", cell),
            lr=cell["lr"],
            depth=cell["model.depth"],
            tokens=cell["tokens"],
            batch_tokens=cell["batch_tokens"],
        ).hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """A number that an expression may read beside the leaves."""

    reads: tuple[str, ...]
    """The leaves that it depends on."""
    value: Callable[[Configurations, Cell], Any]


_MODEL = tuple(path for path in NAMES if path.startswith("model."))
_TRANSFER = tuple(f"transfer.{name}" for name in fields_of(SECTIONS["transfer"]))
_SIZES = ("model.depth", "tokens", "batch_tokens", *_TRANSFER)

COMPUTED: Mapping[str, Computed] = {
    "params": Computed(reads=_MODEL, value=lambda made, cell: made.shape(cell).params),
    "params_total": Computed(reads=_MODEL, value=lambda made, cell: made.shape(cell).params_total),
    "params_paper_total": Computed(reads=_MODEL, value=lambda made, cell: made.shape(cell).params_paper_total),
    "flops_per_token": Computed(reads=_MODEL, value=lambda made, cell: made.shape(cell).flops_per_token),
    "flops": Computed(
        reads=(*_MODEL, "tokens"), value=lambda made, cell: made.shape(cell).flops_per_token * cell["tokens"]
    ),
    "steps": Computed(
        reads=("tokens", "batch_tokens"),
        value=lambda _, cell: max(1, int(cell["tokens"] / cell["batch_tokens"] + 0.5)),
    ),
    "predicted_lr": Computed(reads=_SIZES, value=Configurations.predicted_lr),
    "lr_peak": Computed(reads=("lr", *_SIZES), value=Configurations.lr_peak),
}
