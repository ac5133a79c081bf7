"""`Losses`: what a learning-rate fit sees of a table of results, as plain arrays."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sweeper.errors import FitError
from sweeper.laws.arrays import FloatArray

StrArray = npt.NDArray[np.str_]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.intp]

Key = int | float | str
"""A value of a column that groups are formed by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Final losses against learning rates; every run is here, those left out of fits with their reason.

    Args:
        lr: Peak learning rate of each run, shape (runs,).
        loss: Final loss of each run, nats per token, shape (runs,).
        excluded: Why fits leave a run out ("diverged", "loss missing", …), empty where they use it, shape (runs,).
        covariates: Numeric columns by name, each of shape (runs,).
        labels: Columns of text by name, each of shape (runs,).

    Raises:
        FitError: Columns of unequal length, or a used run whose rate is not positive or whose loss is not finite.
    """

    lr: FloatArray
    loss: FloatArray
    excluded: StrArray
    covariates: Mapping[str, FloatArray]
    labels: Mapping[str, StrArray]

    def __post_init__(self) -> None:
        for name, column in (("loss", self.loss), ("excluded", self.excluded), *self.columns()):
            if column.shape != self.lr.shape:
                raise FitError(f"column {name!r} has {column.shape} values for {self.lr.shape} learning rates")
        rates, losses = self.lr[self.used], self.loss[self.used]
        if not (np.all(np.isfinite(rates) & (rates > 0)) and np.all(np.isfinite(losses))):
            raise FitError(
                "a run that is to be fitted has a rate that is not positive or a loss that is not finite; exclude it"
            )

    @property
    def used(self) -> BoolArray:
        """Which runs take part in fits, shape (runs,)."""
        return np.asarray(self.excluded == "", dtype=np.bool_)

    def columns(self) -> Iterator[tuple[str, FloatArray | StrArray]]:
        yield from self.covariates.items()
        yield from self.labels.items()

    def column(self, name: str) -> FloatArray | StrArray:
        """A covariate or label by name.

        Raises:
            FitError: No such column.
        """
        columns = dict(self.columns())
        if name not in columns:
            raise FitError(f"the losses have no column {name!r}; choose among {', '.join(sorted(columns)) or 'none'}")
        return columns[name]

    def take(self, runs: IntArray | BoolArray) -> "Losses":
        """The chosen runs, in the order given."""
        return Losses(
            lr=self.lr[runs],
            loss=self.loss[runs],
            excluded=self.excluded[runs],
            covariates={name: column[runs] for name, column in self.covariates.items()},
            labels={name: column[runs] for name, column in self.labels.items()},
        )

    def reasons(self) -> dict[str, int]:
        """How many runs are left out, by reason."""
        return dict(Counter(str(reason) for reason in self.excluded[~self.used]))


def make_losses(
    lr: npt.ArrayLike,
    loss: npt.ArrayLike,
    *,
    diverged: npt.ArrayLike = (),
    covariates: Mapping[str, npt.ArrayLike] | None = None,
    labels: Mapping[str, npt.ArrayLike] | None = None,
) -> Losses:
    """Losses of arrays as they come: what cannot be fitted is kept and named, never dropped.

    A run is left out when it diverged, when its loss is missing or infinite, when its learning rate is missing, not
    positive or infinite, or when a covariate or label is missing (NaN, empty text).

    >>> make_losses([0.01, 0.02, 0.0], [2.5, float("nan"), 2.4]).reasons()
    {'loss missing': 1, 'learning rate not positive': 1}
    """
    rates = np.asarray(lr, dtype=np.float64)
    values = np.asarray(loss, dtype=np.float64)
    numbers = {name: np.asarray(column, dtype=np.float64) for name, column in (covariates or {}).items()}
    gone = np.asarray(diverged, dtype=np.bool_) if np.size(np.asarray(diverged)) else np.zeros(rates.shape, np.bool_)
    texts = {name: np.asarray(column, dtype=np.str_) for name, column in (labels or {}).items()}
    reasons = [(f"{name} missing"[:48], np.isnan(column)) for name, column in numbers.items()]
    reasons += [(f"{name} missing"[:48], np.asarray(text == "")) for name, text in texts.items()]
    reasons += [
        ("loss infinite", np.isinf(values)),
        ("loss missing", np.isnan(values)),
        ("diverged", gone),
        ("learning rate not positive", ~(rates > 0)),
        ("learning rate infinite", np.isposinf(rates)),
        ("learning rate missing", np.isnan(rates)),
    ]
    return Losses(
        lr=rates,
        loss=values,
        excluded=_last_that_holds(reasons, rates.shape),
        covariates=numbers,
        labels=texts,
    )


def _last_that_holds(reasons: Iterable[tuple[str, BoolArray]], shape: tuple[int, ...]) -> StrArray:
    """Per run the last reason that holds, empty where none does; as wide as its longest text: runs may be millions."""
    words, codes = [""], np.zeros(shape, dtype=np.uint16)
    for reason, holds in reasons:
        if holds.any():
            codes[holds] = len(words)
            words.append(reason)
    return np.asarray(words, dtype=np.str_)[codes]


def groups(losses: Losses, by: tuple[str, ...]) -> Iterator[tuple[dict[str, Key], Losses]]:
    """The runs of each combination of values of the columns `by`, in ascending order; one group when `by` is empty.

    Groups whose runs are all left out are there too: a question is answered with a status, never with silence. A run
    that misses a value of `by` belongs to no group.
    """
    for name in by:
        column = losses.column(name)
        missing = column == "" if column.dtype.kind == "U" else np.isnan(column.astype(np.float64))
        losses = losses.take(~missing) if missing.any() else losses
    if losses.lr.size == 0:
        return
    inverse = np.zeros(losses.lr.shape, dtype=np.intp)
    for name in by:
        _, codes = np.unique(losses.column(name), return_inverse=True)
        inverse = np.unique(inverse * (codes.max() + 1) + codes, return_inverse=True)[1]
    order = np.argsort(inverse, kind="stable")
    for runs in np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1):
        yield {name: plain(losses.column(name)[runs[0]]) for name in by}, losses.take(runs)


def plain(value: object) -> Key:
    """A value as JSON has it: whole numbers without a point, text as it is."""
    if isinstance(value, str):
        return str(value)
    number = float(value)  # type: ignore[arg-type]
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
