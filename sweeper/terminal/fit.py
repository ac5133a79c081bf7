"""Fits and predictions as tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sweeper.analysis import FitReport
from sweeper.fits.loss_curve import Leverage, LossCurveFit
from sweeper.fits.losses import Key
from sweeper.fits.optimum import Optimum
from sweeper.fits.power_law import PowerLawFit
from sweeper.fits.prediction import LrPrediction
from sweeper.table import LeftOut
from sweeper.terminal import axis_value, console, scientific, show, table

NAMED = 3
"""Runs of each reason that are named when fits leave them out; `--json` names more."""

STATUS_WORDS = {
    "ok": "ok",
    "edge_low": "below the grid",
    "edge_high": "above the grid",
    "argmin": "grid argmin (R² rule)",
    "no_minimum": "no minimum",
    "too_few": "too few rates",
}


def print_fit(report: FitReport, title: str, note: str = "", rows: int = 40) -> None:
    """Optima, laws, curves and leverage, each in a table of its own, then what a reader must know."""
    if report.optima:
        _print_optima(report.optima, title, rows)
    if report.laws:
        _print_laws(report.laws)
    if report.curves:
        _print_curves(report.curves)
    if report.leverage:
        _print_leverage(report.leverage)
    if report.excluded:
        left_out = ", ".join(f"{number} {reason}" for reason, number in report.excluded.items())
        console.print(f"left out of the fits: {left_out}, of {report.runs} runs", soft_wrap=True)
        for reason, number in report.excluded.items():
            console.print(f"  {_named(report.left_out, reason, number)}", soft_wrap=True, markup=False, style="dim")
    for warning in report.warnings:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    if note:
        console.print(f"note: {note}", soft_wrap=True)


def _named(left_out: Sequence[LeftOut], reason: str, number: int) -> str:
    """The first runs that are left out for a reason: "diverged: a, b, c and 4 more"."""
    shown = [run.run for run in left_out if run.reason == reason][:NAMED]
    more = f" and {number - len(shown)} more" if number > len(shown) else ""
    return f"{reason}: {', '.join(shown)}{more}"


def _print_optima(optima: Sequence[Optimum], title: str, rows: int) -> None:
    names = list(optima[0].group)
    made = table(f"Learning-rate optima of {title}")
    for name in [*names, "lr*", "90 % interval", "loss", "status", "runs"]:
        made.add_column(name, justify="left" if name == "status" else "right")
    for optimum in optima[:rows]:
        made.add_row(
            *(axis_value(optimum.group[name]) for name in names),
            _rate(optimum.lr),
            _interval(optimum.lr_low, optimum.lr_high),
            "–" if optimum.loss is None else f"{optimum.loss:.4f}",
            STATUS_WORDS[optimum.status],
            str(optimum.points) + (f" (−{optimum.excluded})" if optimum.excluded else ""),
        )
    show(made)
    if len(optima) > rows:
        console.print(f"… and {len(optima) - rows} more groups (--json holds all)", style="dim")
    console.print()


def _print_laws(laws: Sequence[PowerLawFit]) -> None:
    made = table("Power laws  y = a · x^b")
    for name in ("law", "space", "a", "b", "90 % interval of b", "leave-one-out"):
        made.add_column(name, justify="left" if name in ("law", "space") else "right")
    for law in laws:
        made.add_row(
            f"{law.y} ~ {law.x}{_setting(law.per)}",
            law.space,
            scientific(law.a),
            f"{law.b:.4f}",
            _interval(law.b_low, law.b_high, "{:.3f}"),
            _share(law.loo_error),
        )
    show(made)
    console.print()


def _print_curves(curves: Sequence[LossCurveFit]) -> None:
    made = table("Loss curves  y = A · x^−b + E")
    for name in ("curve", "A", "b", "90 % interval of b", "E", "leave-one-out", "points"):
        made.add_column(name, justify="left" if name == "curve" else "right")
    for curve in curves:
        made.add_row(
            f"{curve.y} ~ {curve.x}{_setting(curve.per)}",
            f"{curve.A:.4g}",
            f"{curve.b:.4f}",
            _interval(curve.b_low, curve.b_high, "{:.3f}"),
            f"{curve.E:.4f}",
            _share(curve.loo_error),
            str(curve.points),
        )
    show(made)
    console.print()


def _print_leverage(leverage: Sequence[Leverage]) -> None:
    made = table("Compute leverage over the baseline (extrapolated ones marked *)")
    for name in ("arm", "at FLOPs", "its fit inverted", "baseline's fit inverted"):
        made.add_column(name, justify="left" if name == "arm" else "right")
    for row in leverage:
        star = "*" if row.extrapolated else ""
        made.add_row(row.arm, scientific(row.at), _times(row.value, star), _times(row.value_baseline_fit, star))
    show(made)
    console.print()


def print_predictions(predictions: Iterable[LrPrediction]) -> None:
    """Each prediction with what should temper trust in it."""
    for prediction in predictions:
        target = ", ".join(f"{name} {axis_value(value)}" for name, value in prediction.target.items())
        console.print(
            f"[bold]lr_peak = {prediction.lr:.4g}[/] at {target}{_setting(prediction.per)}, "
            f"90 % interval {_interval(prediction.lr_low, prediction.lr_high)} (±{prediction.half_width:.2f} octaves)",
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


def print_figures(paths: Iterable[Path]) -> None:
    """Where the figures are."""
    for path in paths:
        console.print(f"figure: {path}", soft_wrap=True)


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _interval(low: float | None, high: float | None, form: str = "{:.4g}") -> str:
    if low is None and high is None:
        return "–"
    return f"{'…' if low is None else form.format(low)} – {'…' if high is None else form.format(high)}"


def _share(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2%}" if value <= 1 else "> 100 %"


def _times(value: float | None, star: str) -> str:
    return "–" if value is None else f"{value:.3f} ×{star}"


def _setting(per: Mapping[str, Key]) -> str:
    return f" ({', '.join(f'{name} {axis_value(value)}' for name, value in per.items())})" if per else ""
