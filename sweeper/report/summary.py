"""What a report says in plain words: one sentence per finding, none without its interval."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sweeper.analysis import FitReport, SuggestedRuns, published_law
from sweeper.analysis.question import RATES
from sweeper.fits.comparison import Comparison
from sweeper.fits.dependence import NEGLIGIBLE, Dependence
from sweeper.fits.design import Suggestion
from sweeper.fits.loss_curve import Leverage, LossCurveFit
from sweeper.fits.losses import Key
from sweeper.fits.optimum import Optimum
from sweeper.fits.power_law import MIN_POINTS, PowerLawFit
from sweeper.fits.prediction import LrPrediction
from sweeper.report.cells import decimals, form_of, significant
from sweeper.report.html import Html, join, tag
from sweeper.spec import Question
from sweeper.table import Table, numbers, split
from sweeper.terminal import counted
from sweeper.terminal.suggest import WHY

SYMBOLS: Mapping[str, str] = {"tokens": "T", "flops": "C", "params": "N", "batch_tokens": "B"}
"""The papers' names of the axes."""
WORDS: Mapping[str, str] = {"flops": "FLOPs", "params": "parameters", "batch_tokens": "the tokens of a batch"}
"""Columns as a sentence calls them."""
NAMED = 3
"""Groups of a kind that a sentence names one by one."""
BEST = 24
"""Groups whose best run is named."""


def findings(report: FitReport, table: Table, question: Question) -> list[Html]:
    """The sentences of a report, the most general first."""
    rates = {report.rate, *RATES}
    said = [optima_sentence(report.optima)] if report.optima else []
    said += [law_sentence(law, published_law(table, question, law), rates) for law in _preferred(report.laws)]
    told = {(law.y, law.x, *law.per.values()) for law in report.laws}
    said += [dependence_sentence(d, rates) for d in report.dependence if (d.y, d.x, *d.per.values()) not in told]
    said += [curve_sentence(curve) for curve in report.curves]
    said += leverage_sentences(report.leverage, question.baseline, report.curves[0].x if report.curves else "flops")
    said += comparison_sentences(report.comparisons, question.baseline)
    return said


def next_steps(report: FitReport, missing: int, suggestions: Sequence[SuggestedRuns] = ()) -> list[str]:
    """What to run next: what `sweeper suggest` says, or as far as the results themselves say so."""
    steps = [f"launch the sweep again: {counted(missing, 'run')} of it {_have(missing)} no result"] if missing else []
    pending = [row.suggestion for row in suggestions if row.pending]
    if suggestions:
        steps += [_suggestion_sentence(found) for found in pending[:NAMED]]
        if len(pending) > NAMED:
            steps.append(f"{counted(len(pending) - NAMED, 'more group')}: see sweeper suggest")
        return steps
    for status, side in (("edge_low", "below"), ("edge_high", "above")):
        beyond = [o for o in report.optima if o.status == status]
        if beyond:
            steps.append(
                f"extend the learning rates {side} their grid for {_named([_setting(o.group) for o in beyond])}: "
                "the best rate is the outermost one"
            )
    few = [o for o in report.optima if o.status == "too_few"]
    if few:
        steps.append(f"add learning rates to {_named([_setting(o.group) for o in few])}: a valley needs three")
    return steps


def _suggestion_sentence(found: Suggestion) -> str:
    """Rates, group and reason, and what they are expected to leave of the interval."""
    rates = " and ".join(significant(lr) for lr in found.lrs)
    gain = ""
    if found.half_width is not None and found.expected is not None:
        gain = f" (±{found.half_width:.2f} → ±{found.expected:.2f} octaves)"
    return f"run {rates} for {_setting(found.group)}: {WHY[found.why]}{gain}"


def optima_sentence(optima: Sequence[Optimum]) -> Html:
    """How many groups have an optimum, and what became of the others."""
    settled = sum(o.settled for o in optima)
    if settled == len(optima):
        who, whose = ("The only group has", "its") if settled == 1 else (f"All {settled} groups have", "their")
        return join(f"{who} a best learning rate inside {whose} grid.")
    edges = sum(o.status in ("edge_low", "edge_high") for o in optima)
    others = len(optima) - settled - edges
    rest = [f"{edges} only a bound, at an edge of the grid"] if edges else []
    rest += [f"{others} no minimum or too few rates"] if others else []
    return join(f"{settled} of {len(optima)} groups have a best learning rate inside their grid; {', '.join(rest)}.")


def law_sentence(law: PowerLawFit, published: object, rates: set[str]) -> Html:
    """η* falls with tokens as T^−0.31 (90 % interval …); a published exponent lies inside or outside."""
    return _exponent_sentence(law, rates, _published(published), f" + {significant(law.c)}" if law.c else "")


def dependence_sentence(found: Dependence, rates: set[str]) -> Html:
    """As `law_sentence`, of a covariate that was fitted beside others."""
    published = None if found.published is None else ("the published", found.published)
    beside = f", {' and '.join(found.beside)} held constant" if found.beside else ""
    return _exponent_sentence(found, rates, published, beside)


def _exponent_sentence(
    found: PowerLawFit | Dependence, rates: set[str], published: tuple[str, float] | None, more: str
) -> Html:
    y, x, low, high = "η*" if found.y in rates else _word(found.y), _word(found.x), found.b_low, found.b_high
    power = join(SYMBOLS.get(found.x, found.x), tag("sup", decimals(2)(found.b)))
    if low is None or high is None:
        said = join(tag("strong", f"{y} {'falls' if found.b < 0 else 'rises'} with {x}"), " as ", power)
        why = " from two points" if found.points == MIN_POINTS else ""
        return join(_who(found.per), said, more, f" (no interval{why}).")
    if not low <= 0 <= high:
        said = join(tag("strong", f"{y} {'falls' if found.b < 0 else 'rises'} with {x}"), " as ", power)
    elif max(-low, high) <= NEGLIGIBLE:
        said = join(tag("strong", f"{y} does not depend on {x}"), ": ", power)
    else:
        said = join(tag("strong", f"{y} shows no clear dependence on {x}"), ": ", power)
    compared = None
    if published is not None:
        place = "inside" if low <= published[1] <= high else "outside"
        compared = f"; {published[0]} {decimals(2)(published[1])} lies {place}"
    return join(_who(found.per), said, more, f" (90 % interval {_span(low, high)})", compared, ".")


def curve_sentence(curve: LossCurveFit) -> Html:
    """A loss curve with the interval of its exponent."""
    floor = f" + {decimals(3)(curve.E)}" if curve.E > 0 else ""
    law = join(significant(curve.A), " · ", SYMBOLS.get(curve.x, curve.x), tag("sup", decimals(3)(-curve.b)), floor)
    interval = (
        f"90 % interval of the exponent {_span(-curve.b_high, -curve.b_low, 3)}"
        if curve.b_low is not None and curve.b_high is not None
        else f"{curve.points} points for 3 constants: no interval"
    )
    return join(
        _who(curve.per), tag("strong", f"{_word(curve.y)} falls with {_word(curve.x)}"), " as ", law, f" ({interval})."
    )


def leverage_sentences(rows: Sequence[Leverage], baseline: str, x: str) -> Iterator[Html]:
    """What each arm saves at the largest budget, in the units of the curves' axis."""
    less, unit = ("less", "compute") if x == "flops" else ("fewer", _word(x))
    for arm in dict.fromkeys(row.arm for row in rows):
        last = max((row for row in rows if row.arm == arm), key=lambda row: row.at)
        if last.value is None:
            continue
        read = ", read beyond the runs" if last.extrapolated else ""
        saved = f"{arm} reaches the loss of {baseline} with {last.value:.2f} × {less} {unit}"
        if last.value < 1:
            saved = f"{arm} needs {1 / last.value:.2f} × more {unit} than {baseline} for the same loss"
        yield join(tag("strong", saved), f" at {form_of(x)(last.at)} {_word(x)}{read}.")


def comparison_sentences(rows: Sequence[Comparison], baseline: str) -> Iterator[Html]:
    """How often each arm beats the baseline, and by how much at most certain group."""
    for arm in dict.fromkeys(row.arm for row in rows):
        own = [row for row in rows if row.arm == arm]
        verdicts = [
            f"{verdict} in {sum(row.verdict == verdict for row in own)}"
            for verdict in dict.fromkeys(row.verdict for row in own)
        ]
        low, high = min(row.loss_difference for row in own), max(row.loss_difference for row in own)
        reach = _span(low, high, 4) if low != high else decimals(4)(low)
        yield join(
            tag("strong", f"The best loss of {arm} against {baseline or 'the baseline'}"),
            f": {', '.join(verdicts)} of {counted(len(own), 'group')} ({reach} nats/token).",
        )


def prediction_sentence(found: LrPrediction) -> Html:
    """A predicted rate with its interval and how far beyond the runs it lies."""
    low, high = found.lr_low, found.lr_high
    interval = "no interval"
    if low is not None and high is not None:
        interval = f"90 % interval {significant(low)} to {significant(high)}"
    reach = f", {significant(found.extrapolation, 3)} × beyond the runs" if found.extrapolation > 1 else ""
    told = tag("strong", f"The predicted peak rate at {_setting(found.target)} is {significant(found.lr)}")
    return join(_who(found.per), told, f" ({interval}){reach}.")


def best_runs(table: Table, question: Question, loss: str) -> Table | None:
    """The run of the lowest loss in each group, diverged ones left out; None without any.

    Where there are more groups than a reader looks at, one in each setting of `question.per`.
    """
    if loss not in table.columns:
        return None
    rows: list[int] = []
    table = table.reset_index(drop=True)
    by = tuple(name for name in dict.fromkeys((*question.per, *question.by)) if name in table.columns)
    parts = list(split(table, by))
    parts = parts if len(parts) <= BEST else list(split(table, question.per))
    for _, part in sorted(parts, key=lambda found: [(isinstance(v, str), v) for v in found[0].values()]):
        values = numbers(part, loss)
        gone = part["state"].tolist() if "state" in part.columns else [""] * len(part)
        kept = [
            (value, row)
            for value, row, state in zip(values.tolist(), part.index.tolist(), gone, strict=True)
            if abs(value) < float("inf") and state != "diverged"
        ]
        rows += [min(kept)[1]] if kept else []
    return table.iloc[rows] if rows else None


def _preferred(laws: Sequence[PowerLawFit]) -> list[PowerLawFit]:
    """One law of each pair of columns and setting: the log-space one, whose weights use the optima's errors."""
    chosen: dict[tuple[object, ...], PowerLawFit] = {}
    for law in laws:
        key = (law.y, law.x, *law.per.values())
        if key not in chosen or law.space == "log":
            chosen[key] = law
    return list(chosen.values())


def _word(name: str) -> str:
    return WORDS.get(name, name)


def _published(found: object) -> tuple[str, float] | None:
    if not isinstance(found, tuple):
        return None
    title, law = found
    return f"{title}'s", law.b


def _who(per: Mapping[str, Key]) -> Html | None:
    return join(tag("span", _setting(per), class_="who"), ": ") if per else None


def _setting(group: Mapping[str, Key]) -> str:
    """A group in words: `muonh, tokens 131K`."""
    return ", ".join(_member(name, value) for name, value in group.items()) or "all runs"


def _member(name: str, value: Key) -> str:
    """A value with its column, unless it is a name itself."""
    if isinstance(value, str):
        return value if name == "arm" or name.endswith("name") else f"{name} {value}"
    return f"{name} {form_of(name)(float(value))}"


def _named(groups: Iterable[str]) -> str:
    known = list(groups)
    if len(known) <= NAMED:
        return " · ".join(known)
    return f"{len(known)} groups ({' · '.join(known[:NAMED])} …)"


def _span(low: float, high: float, places: int = 2) -> str:
    return f"{decimals(places)(low)} to {decimals(places)(high)}"


def _have(number: int) -> str:
    return "has" if number == 1 else "have"
