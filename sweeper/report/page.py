"""The page of a report: its sections in their order, around them the contents, the style and a policy that lets
nothing else in."""

import base64
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import sweeper
from sweeper.analysis import FitReport, SuggestedRuns
from sweeper.figures import FIGURES
from sweeper.fits.comparison import PairedDifference
from sweeper.fits.prediction import LrPrediction
from sweeper.report.cells import Column, cell_of, form_of
from sweeper.report.html import Html, join, tag
from sweeper.report.night import has_scale, night_rules
from sweeper.report.origin import Origin
from sweeper.report.summary import best_runs, findings, next_steps, prediction_sentence
from sweeper.report.svg import Drawing, inline_svg
from sweeper.report.tables import Row, make_grid, render_grid, results_column, results_rows, rows_of
from sweeper.spec import Question, RunSpec
from sweeper.table import Table
from sweeper.terminal import count, counted, duration, scientific

NAMED_CELLS = 200
"""Cells without a result that are listed; of more, the number is told."""

METHODS: Mapping[str, str] = {
    "linex": "an asymmetric valley through its losses (LINEX), whose skew is shared by all groups",
    "parabola": "a parabola in ln η through its losses, or the best observed rate where R² ≤ 0.99",
    "argmin": "the best observed rate",
}
"""How the optimum of a group is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """All that a page is made of: the same material gives the same bytes."""

    title: str
    table: Table
    """The results, one row per run."""
    question: Question
    report: FitReport
    figures: Mapping[str, Drawing]
    """By their names in `figures.FIGURES`."""
    created: datetime
    """Stated on the page."""
    loss: str = "loss"
    """Column of the loss."""
    predictions: Sequence[LrPrediction] = ()
    suggestions: Sequence[SuggestedRuns] = ()
    """What to run next; without them only the optima say so."""
    origin: Origin | None = None
    """None for a file."""
    notes: Sequence[str] = ()
    """What was recognised in the source of the results, one sentence each."""
    commands: Sequence[str] = ()
    """Lines of a shell that make all this again."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """Versions of what made the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page with its entry in the contents."""

    anchor: str
    title: str
    body: Html


def render_report(material: Material) -> str:
    """The report as one HTML page that needs nothing beside it: no network, no font, no other file.

    Whatever comes from users (names, titles, columns, warnings, paths) is escaped. The policy of the page names its
    style and its script by their hashes and forbids everything else.
    """
    style, script = _own_file("page.css"), _own_file("page.js")
    figures = {
        name: inline_svg(drawing, f"figure-{_anchor(name)}", f"{_shows(name)}. {_numbers_of(name, material.report)}")
        for name, drawing in material.figures.items()
    }
    style += night_rules(figures.values())
    sections = tuple(_sections(material, figures))
    title = _title(material)
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=f"sweeper {sweeper.__version__}"),
        tag("title", f"{title} – sweeper report"),
        Html(f"<style>{style}</style>"),
    )
    main = _main(material, sections)
    body = tag(
        "body",
        tag("a", "Skip to the report", href="#report", class_="skip"),
        tag("div", _header(material), tag("div", _contents(sections), main, class_="columns"), class_="page"),
        Html(f"<script>{script}</script>"),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _own_file(name: str) -> str:
    return resources.files("sweeper.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# ── around the sections ────────────────────────────────────────────────────────────────────────────────────────────


def _title(material: Material) -> str:
    """The question of a sweep, or the name of a file without its folders."""
    return (material.origin.title or material.origin.name) if material.origin else Path(material.title).name


def _header(material: Material) -> Html:
    eyebrow = f"Sweep {material.origin.name}" if material.origin else f"Results of {material.title}"
    toggle = tag("button", "Theme: auto", type="button", class_="theme", hidden=True)
    return tag(
        "header",
        tag("div", tag("p", eyebrow, class_="eyebrow"), tag("h1", _title(material)), _written(material)),
        toggle,
    )


def _written(material: Material) -> Html:
    moment = tag("time", f"{material.created:%Y-%m-%d %H:%M %Z}".strip(), datetime=material.created.isoformat())
    return tag("p", "Written ", moment, f" by sweeper {sweeper.__version__}", class_="eyebrow")


def _contents(sections: Iterable[Section]) -> Html:
    links = (tag("li", tag("a", section.title, href=f"#{section.anchor}")) for section in sections)
    return tag("nav", tag("ol", links), aria_label="Contents")


def _main(material: Material, sections: Iterable[Section]) -> Html:
    footer = tag("footer", "One file, no network: it can be sent, archived and printed as it is.")
    return tag(
        "main",
        _warnings(material),
        _facts(material),
        (
            tag("section", tag("h2", part.title, id=f"{part.anchor}-title"), part.body, id=part.anchor)
            for part in sections
        ),
        footer,
        id="report",
        tabindex=-1,
    )


def _warnings(material: Material) -> Html | None:
    told = material.report.warnings
    if not told:
        return None
    heading = tag("h2", counted(len(told), "warning").capitalize(), id="warnings-title")
    return tag("div", heading, _items(told), class_="warnings", role="note", aria_labelledby="warnings-title")


def _items(texts: Iterable[str | Html], class_: str | None = None) -> Html:
    return tag("ul", (tag("li", text) for text in texts), class_=class_)


def _facts(material: Material) -> Html:
    """The size of it all, at a glance."""
    facts: list[tuple[str, str, str]] = []
    if origin := material.origin:
        parts = {"done": origin.done, "diverged": origin.diverged, "missing": len(origin.missing)}
        told = ", ".join(f"{number} {state}" for state, number in parts.items() if number)
        facts.append(("Runs", str(origin.totals.runs), told))
        facts.append(("Tokens", count(origin.totals.tokens), ""))
        if origin.totals.flops:
            facts.append(("Training FLOPs", scientific(origin.totals.flops), ""))
            facts.append(("Planned", duration(origin.totals.gpu_hours * 3600), f"of one {origin.device}"))
        facts.append(("Measured", duration(origin.device_s), "of one device, all results"))
    else:
        facts.append(("Runs", f"{material.report.runs:,}", ""))
        facts.append(("Columns", str(len(material.table.columns)), ""))
    if material.report.optima:
        settled = sum(optimum.settled for optimum in material.report.optima)
        facts.append(("Optima", str(settled), f"of {counted(len(material.report.optima), 'group')}"))
    entries = (
        tag("div", tag("dt", name), tag("dd", value, tag("small", f" {more}") if more else None))
        for name, value, more in facts
    )
    return tag("dl", entries, class_="facts")


# ── sections ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _sections(material: Material, figures: Mapping[str, Html]) -> Iterator[Section]:
    """The sections that have something to say, in their order."""
    parts: tuple[tuple[str, str, Html | None], ...] = (
        ("summary", "Summary", _summary(material)),
        ("figures", "Figures", _figures(figures, material.report)),
        ("optima", "Optima", _optima(material.report)),
        ("laws", "Laws", _laws(material.report)),
        ("dependence", "What moves the optimum", _dependence(material.report)),
        ("curves", "Curves and leverage", _curves(material.report, material.question)),
        ("comparisons", "Comparisons", _comparisons(material.report, material.question)),
        ("surfaces", "Surfaces", _surfaces(material.report)),
        ("joint", "Joint fits", _joint(material.report)),
        ("sensitivity", "Sensitivity", _sensitivity(material.report)),
        ("published", "Published", _published(material.report)),
        *_further(material.report),
        ("predictions", "Predictions", _predictions(material.predictions)),
        ("runs", "Runs", _runs(material)),
        ("left-out", "Left out", _left_out(material)),
        ("provenance", "Provenance", _provenance(material)),
        ("reproduce", "Reproduce", _reproduce(material)),
    )
    for anchor, title, body in parts:
        if body:
            yield Section(anchor=anchor, title=title, body=body)


def _lead(*words: str | Html) -> Html:
    return tag("p", *words, class_="lead")


def _table(
    items: Sequence[Any], name: str, label: str, *, skip: Iterable[str] = (), lead: str | Html = "", at: str = ""
) -> Html | None:
    """The table of some results of a fit, below it what their readers must know; nothing without results."""
    if not items:
        return None
    rows = rows_of(items, skip=skip, at=at)
    keep = {column.name for column in rows[0]} & {key for item in items[:1] for key in _keys(item)}
    doubts = list(dict.fromkeys(word for item in items for word in getattr(item, "warnings", ())))
    return join(
        _lead(lead) if lead else None,
        render_grid(make_grid(rows, keep=keep), f"{name}-table", label),
        _items(doubts, "doubts") if doubts else None,
    )


def _keys(item: Any) -> Iterator[str]:
    for key in ("group", "per"):
        yield from getattr(item, key, {})


def _summary(material: Material) -> Html:
    origin, report = material.origin, material.report
    told = [*findings(report, material.table, material.question), *map(prediction_sentence, material.predictions)]
    steps = next_steps(report, len(origin.missing) if origin else 0, material.suggestions)
    best = best_runs(material.table, material.question, material.loss)
    return join(
        tag("ul", (tag("li", sentence) for sentence in told), class_="findings") if told else None,
        tag("p", material.question.note, class_="note") if material.question.note else None,
        tag("h3", "Best runs") if best is not None else None,
        _best(best, material) if best is not None else None,
        tag("h3", "What to run next") if steps else None,
        tag("ul", (tag("li", step) for step in steps), class_="findings") if steps else None,
    )


def _best(best: Table, material: Material) -> Html:
    """The lowest loss of each setting, in the columns that a reader asks for."""
    question, rate = material.question, material.report.rate
    axes = [axis for curve in material.report.curves for axis in (curve.x, curve.y)]
    wanted = (*question.per, *question.by, rate, material.loss, *axes, "run_id")
    columns = [name for name in dict.fromkeys(wanted) if name in best.columns]
    rows = results_rows(best[columns], loss=material.loss)
    return render_grid(make_grid(rows, keep=columns), "best-table", "Runs of the lowest loss")


def _figures(figures: Mapping[str, Html], report: FitReport) -> Html | None:
    return join(_figure(name, svg, report) for name, svg in figures.items()) or None


def _figure(name: str, svg: Html, report: FitReport) -> Html:
    numbers = tag("a", "Its numbers", href=f"#{_data_of(name, report)}")
    classes = "scroll scale" if has_scale(svg) else "scroll"
    frame = tag("div", svg, class_=classes, tabindex=0, role="region", aria_label=f"{_shows(name)}, scrolls sideways")
    return tag("figure", frame, tag("figcaption", f"{_shows(name)}. ", numbers, "."), id=f"figure-{_anchor(name)}")


def figures_for(report: FitReport, question: Question) -> tuple[str, ...]:
    """The figures of a page: those that the question names, and those of all else that the report holds."""
    held = (name for name, field_ in DATA_OF.items() if getattr(report, field_, ()))
    return tuple(name for name in dict.fromkeys((*question.figures, *held)) if name in FIGURES)


DATA_OF: Mapping[str, str] = {
    "lr": "optima",
    "law": "laws",
    "flops": "curves",
    "arms": "comparisons",
    "surface": "surfaces",
    "joint": "joint",
    "sensitivity": "sensitivity",
}
"""The field of a `FitReport` that a figure shows; the others show the runs themselves."""


def _data_of(name: str, report: FitReport) -> str:
    """The section that holds the numbers of a figure."""
    data = DATA_OF.get(name, "runs")
    return data if getattr(report, data, ()) else "runs"


def _numbers_of(name: str, report: FitReport) -> str:
    return f"The section {_data_of(name, report)} holds its numbers."


def _shows(name: str) -> str:
    shows = FIGURES.get(name, name.replace("_", " "))
    return shows[:1].upper() + shows[1:]


def _anchor(name: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in name)


def _optima(report: FitReport) -> Html | None:
    method = METHODS.get(report.method, report.method)
    lead = f"The learning rate η* ({report.rate}) of the lowest loss in each group: {method}. Intervals hold 90 %."
    return _table(report.optima, "optima", "Optima", skip=("method",), lead=lead)


def _laws(report: FitReport) -> Html | None:
    lead = join(
        "y = a · x", tag("sup", "b"), " + c in both conventions: ", tag("em", "log"),
        ", least squares of ln y weighted by the errors of the optima; ", tag("em", "linear"),
        ", least squares of y itself, which the papers use. c is 0 unless it was asked for.",
    )  # fmt: skip
    skip = ("b_se", "x_centre", "log_y_se", "scatter")
    return _table(report.laws, "laws", "Power laws", skip=skip, lead=lead)


def _dependence(report: FitReport) -> Html | None:
    lead = (
        "The exponent of η* along each covariate, those beside it held constant. No dependence: the interval holds 0 "
        "and lies within ±0.1."
    )
    return _table(report.dependence, "dependence", "What moves the optimum", lead=lead)


def _curves(report: FitReport, question: Question) -> Html | None:
    lead = join("y = A · x", tag("sup", "−b"), " + E through the lowest y at each x.")
    curves = _table(report.curves, "curves", "Loss curves", skip=("arm",), lead=lead)
    leverage = _table(
        report.leverage,
        "leverage",
        "Compute leverage",
        at=report.curves[0].x if report.curves else "",
        lead=f"How many times less compute an arm needs for the loss of {question.baseline or 'the baseline'}: its own "
        "fit inverted at the baseline's measured loss, and the baseline's fit inverted at its measured loss.",
    )
    if not (curves or leverage):
        return None
    return join(curves, tag("h3", "Leverage") if leverage else None, leverage)


def _comparisons(report: FitReport, question: Question) -> Html | None:
    lead = (
        f"Each arm at its own best learning rate against {question.baseline or 'the baseline'} at its own. A negative "
        "ΔL is better."
    )
    return join(_table(report.comparisons, "comparisons", "Comparisons", lead=lead), _seeds(report)) or None


def _seeds(report: FitReport) -> Html | None:
    """The differences over shared seeds, at the baseline's best rate and at each arm's own."""
    if not report.seeds:
        return None
    names = ("arm", *report.seeds[0].group, "lr", *(name for at in ("there", "tuned") for name in _about(at)), "seeds")
    heads = [results_column(name) for name in names]
    rows = []
    for one in report.seeds:
        both = (one.at_lr, one.tuned)
        pairs = max(found.pairs for found in both if found)
        values = (one.arm, *one.group.values(), one.lr, *(text for found in both for text in _seen(found)), pairs)
        rows.append({h: cell_of(v, form_of(h.name)) for h, v in zip(heads, values, strict=True)})
    lead = "Over the seeds that both have: at the rate nearest to the baseline's best, and with each seed's own optima."
    return join(
        tag("h3", "Shared seeds"), _lead(lead), render_grid(make_grid(rows, keep=names), "seeds-table", "Shared seeds")
    )


def _about(at: str) -> tuple[str, str]:
    return f"ΔL {at}", f"90 % interval {at}"


def _seen(found: PairedDifference | None) -> tuple[str, str]:
    """A difference and its interval as people read them."""
    if found is None:
        return "–", "–"
    ends = "–" if found.low is None or found.high is None else f"{found.low:+.4f} to {found.high:+.4f}"
    return f"{found.difference:+.4f}", ends


def _surfaces(report: FitReport) -> Html | None:
    lead = join("L = E + A · N", tag("sup", "−α"), " + B · D", tag("sup", "−β"), "; intervals by the case bootstrap.")
    return _table(report.surfaces, "surfaces", "Surfaces", lead=lead)


def _joint(report: FitReport) -> Html | None:
    lead = join(
        "L = E + A · T", tag("sup", "−β"), " · (1 + κ · g(ln η − ln η*)) with η* = a · T", tag("sup", "b"),
        ": all runs of all budgets in one fit.",
    )  # fmt: skip
    return _table(report.joint, "joint", "Joint fits", lead=lead)


def _sensitivity(report: FitReport) -> Html | None:
    lead = "How far the optimum moves when a sweep has fewer learning rates, as a mean over their subsets."
    return _table(report.sensitivity, "sensitivity", "Sensitivity", lead=lead)


def _published(report: FitReport) -> Html | None:
    """What the reference prints on the same subject, a table each."""
    if not report.published:
        return None
    parts = []
    for number, item in enumerate(report.published):
        heads = [results_column(name) for name in item.columns]
        rows = [
            {head: cell_of(value, form_of(head.name)) for head, value in zip(heads, row, strict=True)}
            for row in item.rows
        ]
        shown = render_grid(make_grid(rows, keep=item.columns), f"published-{number}-table", item.title)
        parts += [tag("h3", item.title), _lead(item.setting), shown]
    return join(*parts)


SHOWN = frozenset({*DATA_OF.values(), "dependence", "leverage", "left_out", "published", "seeds"})
"""Fields of a `FitReport` that have a section of their own."""


def _further(report: FitReport) -> Iterator[tuple[str, str, Html | None]]:
    """What else a fit answered: a table of each field that holds results."""
    for name in (entry.name for entry in dataclasses.fields(report) if entry.name not in SHOWN):
        value = getattr(report, name)
        if isinstance(value, tuple) and value and all(dataclasses.is_dataclass(item) for item in value):
            title = name.replace("_", " ").capitalize()
            yield name.replace("_", "-"), title, _table(value, name.replace("_", "-"), title)


def _predictions(predictions: Sequence[LrPrediction]) -> Html | None:
    lead = (
        "The peak learning rate of runs that were never made: the law of the optima times the factors of transfer for "
        "what its groups do not vary."
    )
    return _table(predictions, "predictions", "Predictions", lead=lead)


def _runs(material: Material) -> Html | None:
    rows = results_rows(material.table, loss=material.loss)
    keep = (*material.question.by, *material.question.per, material.report.rate, material.loss, "run_id", "state")
    return render_grid(make_grid(rows, keep=keep), "runs-table", "Runs", filtered=True) if rows else None


def _left_out(material: Material) -> Html | None:
    """What no fit has seen, by reason, and the cells that have no result."""
    reasons = material.report.excluded
    missing = material.origin.missing if material.origin else ()
    more = getattr(material.report, "left_out", None)
    if not (reasons or missing or more):
        return None
    told = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
    return join(
        tag("p", f"Of {counted(material.report.runs, 'run')} the fits leave out: {told}.") if reasons else None,
        _more_left_out(more),
        tag("h3", f"{counted(len(missing), 'cell')} without a result") if missing else None,
        _missing(missing[:NAMED_CELLS]) if missing else None,
        tag("p", f"… and {len(missing) - NAMED_CELLS} more.") if len(missing) > NAMED_CELLS else None,
    )


def _more_left_out(found: object) -> Html | None:
    """Rows that a report names as left out, however it names them."""
    if isinstance(found, Mapping):
        return _items([f"{name}: {value}" for name, value in found.items()])
    items = list(found) if isinstance(found, Iterable) and not isinstance(found, str) else []
    if items and all(dataclasses.is_dataclass(item) for item in items):
        return _table(items, "left-out", "Rows left out")
    return _items([str(item) for item in items]) if items else None


def _missing(specs: Sequence[RunSpec]) -> Html:
    rows: list[Row] = [
        {Column(name="arm"): cell_of(spec.arm)}
        | {Column(name=name): cell_of(value, form_of(name)) for name, value in spec.axes}
        | {Column(name="run_id"): cell_of(spec.run_id)}
        for spec in specs
    ]
    return render_grid(make_grid(rows, keep=("run_id",)), "missing-table", "Cells without a result")


def _provenance(material: Material) -> Html:
    origin = material.origin
    tools = ", ".join(f"{name} {version}" for name, version in material.tools.items())
    made = tag("p", f"This page was made with {tools}.", class_="lead") if tools else None
    notes = [*material.notes, *(origin.notes if origin else ())]
    noted = _items(notes) if notes else None
    if origin is None:
        return join(tag("p", "The results come from ", tag("code", material.title), "."), noted, made)
    began = ""
    if origin.first is not None and origin.last is not None:
        first, last = (f"{moment:%Y-%m-%d %H:%M}" for moment in (origin.first, origin.last))
        began = (
            f" They were begun on {first} UTC." if first == last else f" They were begun from {first} to {last} UTC."
        )
    unknown = f" {counted(origin.unknown, 'result')} left no provenance." if origin.unknown else ""
    rows: list[Row] = [
        {Column(name="fact"): cell_of(row.fact), Column(name="value"): cell_of(row.value)}
        | {Column(name="runs"): cell_of(row.runs)}
        for row in origin.tallies
    ]
    grid = make_grid(rows, keep=("fact", "value", "runs"))
    return join(
        tag("p", "The records are in ", tag("code", str(origin.folder)), ".", began, unknown),
        noted,
        render_grid(grid, "provenance-table", "Provenance") if rows else None,
        made,
        tag("details", tag("summary", "The resolved configuration"), tag("pre", tag("code", origin.resolved.rstrip()))),
    )


def _reproduce(material: Material) -> Html | None:
    """The commands, and what they were given by."""
    if not material.commands:
        return None
    lead = None
    if material.origin is not None:
        code = tag("code", str(material.origin.folder / "code"))
        lead = _lead("Runs that have a result are not trained again. The code that trained them is kept in ", code, ".")
    copy = tag("button", "Copy", type="button", class_="copy", data_copies="commands", hidden=True)
    block = tag("pre", tag("code", "\n".join(material.commands), id="commands"))
    return join(lead, tag("div", block, copy, class_="commands"))
