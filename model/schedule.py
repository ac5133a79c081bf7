"""The learning rate over training, as a multiple of its peak."""

import math

from model.config import ScheduleConfig


def multiplier(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """Rate of step `step` (from 0) of `steps`, over the peak rate.

    A warm-up rises on a line through 0 just before the first step, so that no step is wasted on a rate of 0. What
    follows falls to `final` at `steps`, one step after the last:

    - `linear`: 1 − (1 − final)·p over the share p of the steps after warm-up (HyperP §4, arXiv 2603.28743);
    - `cosine`: final + (1 − final)·(1 + cos πp)/2;
    - `wsd`: 1, then linear over the last `decay` share of all steps;
    - `constant`: 1.

    >>> [multiplier(ScheduleConfig(), step, 10) for step in (0, 5)]
    [1.0, 0.55]
    """
    warmup = schedule.warmup * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule.name == "constant":
        return 1.0
    start = (1 - schedule.decay) * steps if schedule.name == "wsd" else warmup
    progress = max(0.0, (step - start) / (steps - start))
    fallen = (1 - math.cos(math.pi * progress)) / 2 if schedule.name == "cosine" else progress
    return 1 - (1 - schedule.final) * fallen
