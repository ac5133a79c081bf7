"""Predictions as text."""

import math
from collections.abc import Iterable

from sweeper.fits.prediction import LrPrediction
from sweeper.terminal import axis_value, console, scientific
from sweeper.terminal.numbers import interval, setting


def print_predictions(predictions: Iterable[LrPrediction]) -> None:
    """Each prediction with what should temper trust in it."""
    for prediction in predictions:
        target = ", ".join(f"{name} {axis_value(value)}" for name, value in prediction.target.items())
        console.print(
            f"[bold]lr_peak = {prediction.lr:.4g}[/] at {target}{setting(prediction.per)}, "
            f"90 % interval {interval(prediction.lr_low, prediction.lr_high)} (±{prediction.half_width:.2f} octaves)",
            soft_wrap=True,
        )
        if prediction.regret is not None and prediction.lr_least_regret is not None:
            console.print(
                f"  expected loss above the optimum: {prediction.regret:.2g} nats per token; "
                f"least at {prediction.lr_least_regret:.4g}",
                soft_wrap=True,
            )
        forms = ", ".join(f"{name} {value:.4g}" for name, value in prediction.forms.items())
        console.print(f"  forms: {forms} (spread {prediction.spread:.1%})", soft_wrap=True)
        measured = ", ".join(f"{axis}^{b:.3f}" for axis, b in prediction.exponents.items())
        if measured:
            console.print(f"  carried along the axes that the runs measure: {measured}", soft_wrap=True)
        factors = ", ".join(f"{axis} × {factor:.4g}" for axis, factor in prediction.factors.items())
        if factors or prediction.lr_base is not None:  # without a sweep the rule is only ours
            console.print(f"  transfer {prediction.rule}: {factors or 'no factor needed'}", soft_wrap=True)
        console.print(f"  extrapolation: {prediction.extrapolation:.3g} × beyond the data", soft_wrap=True)
        base = prediction.lr_base
        if base is not None and not math.isclose(base, prediction.lr):
            console.print(f"  as the base rate of this sweep's transfer rule: lr = {base:.4g}", soft_wrap=True)
        for warning in prediction.warnings:
            console.print(f"  warning: {warning}", style="yellow", soft_wrap=True)
        for place, runs in enumerate(prediction.next_runs):
            start = ", ".join(f"{lr:.4g}" for lr in runs.lrs)
            cost = "" if runs.flops is None else f", {scientific(runs.flops)} FLOPs"
            console.print(
                f"  {'to narrow it: ' if place == 0 else '          or: '}4 runs at {runs.x} {axis_value(runs.value)} "
                f"(start with {start}) → ±{runs.half_width:.2f} octaves{cost}",
                soft_wrap=True,
            )
