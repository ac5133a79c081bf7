"""Arms side by side: what each gains over the baseline where both have an optimum."""

from dataclasses import dataclass
from typing import Literal

from sweeper.fits.losses import Key

Verdict = Literal["lower", "higher", "no difference", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An arm against the baseline, each at its own best learning rate, in one group that both have."""

    arm: str
    """The values that set the arm apart, in one word."""
    group: dict[str, Key]
    """What both share: the group without the columns that set arms apart."""
    loss_difference: float
    """L*(arm) − L*(baseline), nats per token: negative where the arm is better."""
    loss_low: float | None
    """90 % interval of the difference; None where an optimum has no error."""
    loss_high: float | None
    lr_shift: float
    """log2 η*(arm)/η*(baseline), octaves."""
    lr_shift_low: float | None
    lr_shift_high: float | None
    verdict: Verdict
    """Of the loss: `lower` and `higher` where the interval excludes 0; `unknown` without an interval."""
