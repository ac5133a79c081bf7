"""Fits as tables."""

from collections.abc import Sequence

from sweeper.analysis import FitReport
from sweeper.fits.comparison import Comparison, PairedDifference, SeedComparison
from sweeper.fits.dependence import Dependence
from sweeper.fits.joint import JointFit
from sweeper.fits.loss_curve import Leverage, LossCurveFit
from sweeper.fits.optimum import Optimum
from sweeper.fits.power_law import PowerLawFit
from sweeper.fits.sensitivity import Sensitivity
from sweeper.fits.surface import SurfaceFit
from sweeper.laws.published import PublishedTable
from sweeper.table import LeftOut
from sweeper.terminal import axis_value, console, scientific, show, table
from sweeper.terminal.numbers import interval, published_value, rate, setting, share, times

NAMED = 3
"""Runs of each reason that are named when fits leave them out; `--json` names more."""

UNSEEN = ("leave-one-out", "next budget")
"""Headers of the errors at points that a fit has not seen: each left out in turn, and each from those before it."""

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
    if report.dependence:
        _print_dependence(report.dependence)
    if report.curves:
        _print_curves(report.curves)
    if report.leverage:
        _print_leverage(report.leverage)
    if report.comparisons:
        _print_comparisons(report.comparisons)
    if report.seeds:
        _print_seeds(report.seeds)
    if report.surfaces:
        _print_surfaces(report.surfaces)
    if report.joint:
        _print_joint(report.joint)
    if report.sensitivity:
        _print_sensitivity(report.sensitivity, rows)
    for published in report.published:
        _print_published(published)
    if report.excluded:
        left_out = ", ".join(f"{number} {reason}" for reason, number in report.excluded.items())
        console.print(f"left out of the fits: {left_out}, of {report.runs} runs", soft_wrap=True)
        for reason, number in report.excluded.items():
            console.print(f"  {_named(report.left_out, reason, number)}", soft_wrap=True, markup=False, style="dim")
    for warning in report.warnings:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True, markup=False)
    if note:
        console.print(f"note: {note}", soft_wrap=True, markup=False)


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
            rate(optimum.lr),
            interval(optimum.lr_low, optimum.lr_high),
            "–" if optimum.loss is None else f"{optimum.loss:.4f}",
            STATUS_WORDS[optimum.status],
            str(optimum.points) + (f" (−{optimum.excluded})" if optimum.excluded else ""),
        )
    show(made)
    if len(optima) > rows:
        console.print(f"… and {len(optima) - rows} more groups (--json holds all)", style="dim")
    console.print()


def _print_laws(laws: Sequence[PowerLawFit]) -> None:
    offset = any(law.c > 0 for law in laws)
    made = table("Power laws  y = a · x^b" + (" + c" if offset else ""))
    names = ["law", "space", "a", "b", "90 % interval of b", "bootstrap", *(["c"] if offset else []), *UNSEEN]
    for name in names:
        made.add_column(name, justify="left" if name in ("law", "space") else "right")
    for law in laws:
        made.add_row(
            f"{law.y} ~ {law.x}{setting(law.per)}",
            law.space,
            scientific(law.a),
            f"{law.b:.4f}",
            interval(law.b_low, law.b_high, "{:.3f}"),
            interval(law.b_boot_low, law.b_boot_high, "{:.3f}"),
            *([f"{law.c:.4g}" if law.c > 0 else "–"] if offset else []),
            share(law.loo_error),
            share(law.rolling_error),
        )
    show(made)
    console.print()


def _print_dependence(rows: Sequence[Dependence]) -> None:
    made = table("What moves the optimum")
    published = any(row.published is not None for row in rows)
    names = ["along", "exponent", "90 % interval", "verdict", *(["published"] if published else []), "beside"]
    for name in names:
        made.add_column(name, justify="right" if name in ("exponent", "90 % interval") else "left")
    for row in rows:
        inside = {True: "inside", False: "outside", None: "not compared"}[row.agrees]
        beside = f"tied to {', '.join(row.tied)}" if row.tied else ", ".join(row.beside) or "–"
        made.add_row(
            f"{row.x}{setting(row.per)}",
            f"{row.b:.3f}",
            interval(row.b_low, row.b_high, "{:.3f}"),
            row.verdict,
            *([f"{row.published:.3g} ({inside})" if row.published is not None else "–"] if published else []),
            beside,
        )
    show(made)
    console.print()


def _print_curves(curves: Sequence[LossCurveFit]) -> None:
    made = table("Loss curves  y = A · x^−b + E")
    for name in ("curve", "A", "b", "90 % interval of b", "E", "90 % interval of E", *UNSEEN, "points"):
        made.add_column(name, justify="left" if name == "curve" else "right")
    for curve in curves:
        made.add_row(
            f"{curve.y} ~ {curve.x}{setting(curve.per)}",
            f"{curve.A:.4g}",
            f"{curve.b:.4f}",
            interval(curve.b_low, curve.b_high, "{:.3f}"),
            f"{curve.E:.4f}",
            interval(curve.E_low, curve.E_high, "{:.3f}"),
            share(curve.loo_error),
            share(curve.rolling_error),
            str(curve.points),
        )
    show(made)
    console.print()


def _print_comparisons(rows: Sequence[Comparison]) -> None:
    made = table("Against the baseline, each at its own best rate")
    names = list(rows[0].group)
    for name in ["arm", *names, "loss", "90 % interval", "rate, octaves", "90 % interval", "verdict"]:
        made.add_column(name, justify="left" if name in ("arm", "verdict") else "right")
    for row in rows:
        made.add_row(
            row.arm,
            *(axis_value(row.group[name]) for name in names),
            f"{row.loss_difference:+.4f}",
            interval(row.loss_low, row.loss_high, "{:+.4f}"),
            f"{row.lr_shift:+.2f}",
            interval(row.lr_shift_low, row.lr_shift_high, "{:+.2f}"),
            row.verdict,
        )
    show(made)
    console.print()


def _print_seeds(rows: Sequence[SeedComparison]) -> None:
    made = table("Against the baseline over shared seeds")
    names = list(rows[0].group)
    for name in ["arm", *names, "at rate", "loss there", "90 % interval", "each tuned", "90 % interval", "seeds"]:
        made.add_column(name, justify="left" if name == "arm" else "right")
    for row in rows:
        pairs = max(found.pairs for found in (row.at_lr, row.tuned) if found)
        made.add_row(
            row.arm,
            *(axis_value(row.group[name]) for name in names),
            rate(row.lr),
            *_difference(row.at_lr),
            *_difference(row.tuned),
            str(pairs),
        )
    show(made)
    console.print()


def _difference(found: PairedDifference | None) -> tuple[str, str]:
    if found is None:
        return "–", "–"
    return f"{found.difference:+.4f}", interval(found.low, found.high, "{:+.4f}")


def _print_surfaces(surfaces: Sequence[SurfaceFit]) -> None:
    made = table("Loss surfaces  L = E + A · N^−alpha + B · D^−beta")
    for name in ("surface", "E", "A", "alpha", "B", "beta", "intervals of E, alpha, beta", "leave-one-out", "points"):
        made.add_column(name, justify="left" if name == "surface" else "right")
    for fit in surfaces:
        made.add_row(
            f"{fit.y} ~ {fit.N} + {fit.D}{setting(fit.per)}",
            f"{fit.E:.4f}",
            f"{fit.A:.4g}",
            f"{fit.alpha:.4f}",
            f"{fit.B:.4g}",
            f"{fit.beta:.4f}",
            ", ".join(
                interval(low, high, "{:.3f}")
                for low, high in (
                    (fit.E_low, fit.E_high),
                    (fit.alpha_low, fit.alpha_high),
                    (fit.beta_low, fit.beta_high),
                )
            ),
            share(fit.loo_error),
            str(fit.points),
        )
    show(made)
    console.print()


def _print_joint(joint: Sequence[JointFit]) -> None:
    made = table("Joint fits  L = E + A · T^−beta · (1 + κ · g(ln η − ln a·T^b))")
    for name in ("fit", "E", "beta", "a", "b", "90 % interval of b", "κ", "skew", "rmse", "points"):
        made.add_column(name, justify="left" if name == "fit" else "right")
    for fit in joint:
        made.add_row(
            f"{fit.y} ~ {fit.x}, {fit.rate}{setting(fit.per)}",
            f"{fit.E:.4f}",
            f"{fit.beta:.4f}",
            scientific(fit.a),
            f"{fit.b:.4f}",
            interval(fit.b_low, fit.b_high, "{:.3f}"),
            f"{fit.kappa:.3g}",
            f"{fit.skew:.2f}",
            f"{fit.rmse:.2g}",
            str(fit.points),
        )
    show(made)
    console.print()


def _print_sensitivity(rows: Sequence[Sensitivity], most: int) -> None:
    made = table("With fewer learning rates")
    names = list(rows[0].group)
    for name in [*names, "rates", "of", "rate off by", "loss off by", "subsets with an optimum"]:
        made.add_column(name, justify="right")
    for row in rows[:most]:
        made.add_row(
            *(axis_value(row.group[name]) for name in names),
            str(row.rates),
            str(row.of),
            share(row.lr_error),
            "–" if row.loss_error is None else f"{row.loss_error:.3%}",
            f"{row.settled} of {row.subsets}",
        )
    show(made)
    if len(rows) > most:
        console.print(f"… and {len(rows) - most} more rows (--json holds all)", style="dim")
    console.print()


def _print_published(item: PublishedTable) -> None:
    console.print(f"{item.title}, published: {item.setting}", soft_wrap=True, markup=False, style="italic")
    made = table()
    for place, name in enumerate(item.columns):
        words = any(isinstance(row[place], str) for row in item.rows)
        made.add_column(name, justify="left" if words else "right")
    for row in item.rows:
        made.add_row(*(published_value(name, value) for name, value in zip(item.columns, row, strict=True)))
    show(made)
    console.print()


def _print_leverage(leverage: Sequence[Leverage]) -> None:
    made = table("Compute leverage over the baseline (extrapolated ones marked *)")
    for name in ("arm", "at FLOPs", "its fit inverted", "baseline's fit inverted"):
        made.add_column(name, justify="left" if name == "arm" else "right")
    for row in leverage:
        star = "*" if row.extrapolated else ""
        made.add_row(row.arm, scientific(row.at), times(row.value, star), times(row.value_baseline_fit, star))
    show(made)
    console.print()
