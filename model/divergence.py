"""When a run has diverged: a pure judgement over the losses and gradient norms of its steps, one state per run."""

import math
from dataclasses import dataclass, replace

SMOOTHING_STEPS = 20
"""Steps over which the loss is averaged (exponentially) before it is compared with the start: hides batch noise."""
MARGIN = 0.01
"""Share of the starting loss that the average must exceed it by: a run at a vanishing rate stays at its start, give
or take the noise of a batch, and has not diverged."""
PATIENCE_STEPS = 50
PATIENCE_SHARE = 0.05
"""A run may stay above its start for max(50 steps, 5 % of its steps); one that recovers sooner is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """What is remembered of a run's losses. `reason` is empty while the run is healthy."""

    start: float = math.nan
    """Loss of the first step, nats per token."""
    average: float = math.nan
    """Exponential average of the losses."""
    above: int = 0
    """Steps in a row with the average above the start."""
    reason: str = ""


def patience(steps: int) -> int:
    """Steps above its start after which a run of `steps` steps counts as diverged.

    >>> patience(100), patience(10_000)
    (50, 500)
    """
    return max(PATIENCE_STEPS, int(PATIENCE_SHARE * steps))


def watch(seen: Divergence, *, step: int, steps: int, loss: float, grad_norm: float) -> Divergence:
    """The judgement after one more step: `reason` says why the run has diverged, if it has.

    Args:
        seen: The judgement after the step before; `Divergence()` before the first.
        step: Steps done with this one.
        steps: Steps of the whole run.
        loss: Mean training loss of the step's batch, nats per token.
        grad_norm: Global norm of the step's gradient, before clipping.
    """
    if not math.isfinite(loss):
        return replace(seen, reason=f"the loss became {loss} at step {step}")
    if not math.isfinite(grad_norm):
        return replace(seen, reason=f"the gradient norm became {grad_norm} at step {step}")
    if math.isnan(seen.start):
        return Divergence(start=loss, average=loss)
    average = seen.average + (loss - seen.average) / SMOOTHING_STEPS
    above = seen.above + 1 if average > seen.start * (1 + MARGIN) else 0
    reason = ""
    if above > patience(steps):
        reason = f"the loss stayed above its start of {seen.start:.4g} for {above} steps, up to step {step}"
    return Divergence(start=seen.start, average=average, above=above, reason=reason)
