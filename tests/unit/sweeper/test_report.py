"""The page of a report, as its text."""

import json
import re
from dataclasses import fields, replace
from html.parser import HTMLParser

import pandas as pd
import pytest
from builders import run_record, run_spec, tiny_sweep
from report_material import NASTY, material, sweep_table, table_12
from typer.testing import CliRunner

from sweeper.analysis import FitReport, SuggestedRuns, predict_question
from sweeper.cli import app
from sweeper.errors import DiskError
from sweeper.fits.comparison import Comparison
from sweeper.fits.dependence import Dependence
from sweeper.fits.design import Suggestion
from sweeper.fits.joint import JointFit
from sweeper.records import SweepFolder, read_records, write_json, write_record
from sweeper.report import read_origin, render_report, write_report
from sweeper.report.html import join, tag
from sweeper.report.night import luminance, night_of
from sweeper.report.summary import next_steps
from sweeper.report.tables import PAGE_ROWS, make_grid, render_grid, results_rows, rows_of
from sweeper.spec import Question

CURVES = Question(by=(), per=("arm",), laws=(), curves=("loss ~ flops",), baseline="muon")


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside[-1:] == [tag]:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(made) -> Page:
    return Page(render_report(made))


def test_the_summary_says_the_law_in_words_with_its_interval_and_the_published_exponent():
    text = page(material(sweep_table())).text
    assert re.search(
        r"η\* falls with tokens as T−0\.50 \(90 % interval −0\.\d\d to −0\.\d\d\); HyperP's −0\.32 lies", text
    )


def test_the_summary_gives_hyperps_leverage_of_table_13():
    text = page(material(table_12(), CURVES)).text
    assert (
        "muonh_hyperp reaches the loss of muon with 1.58 × less compute at 5.96e21 FLOPs, read beyond the runs." in text
    )
    assert "muonh_hyperp: loss falls with FLOPs as 85.8" in text


def test_a_prediction_is_told_with_its_interval_and_its_reach():
    table = sweep_table()
    question = Question(laws=("lr ~ tokens",), curves=())
    predictions = predict_question(table, question, {"tokens": 16e9})
    found = page(material(table, question, predictions=predictions))
    assert re.search(r"at tokens 16B is 0\.00\d+ \(90 % interval 0\.\d+ to 0\.\d+\), 4 × beyond the runs\.", found.text)
    assert "predictions" in {attributes["id"] for attributes in found.all("section")}


def test_an_optimum_at_the_edge_is_a_bound_and_the_next_step():
    table = sweep_table(rates=7)
    text = page(material(table[(table.tokens > 1e9) | (table.lr < 0.019)])).text
    assert "2 of 3 groups have a best learning rate inside their grid" in text
    assert "extend the learning rates above their grid for tokens 1B" in text


def test_warnings_come_before_everything_else():
    made = material(sweep_table())
    text = page(replace(made, report=replace(made.report, warnings=("mind the step",)))).text
    assert text.index("mind the step") < text.index("All 3 groups")


def test_what_the_fits_leave_out_is_counted_and_named():
    text = page(material(sweep_table())).text
    assert "Of 17 runs the fits leave out: 1 diverged, 1 loss missing." in text
    assert "run-gone" in text


def test_the_contents_name_the_sections_that_are_there_and_no_others():
    made = page(material(sweep_table()))
    anchors = [attributes["href"] for attributes in made.all("a") if (attributes.get("href") or "").startswith("#")]
    sections = [attributes["id"] for attributes in made.all("section")]
    assert [f"#{name}" for name in sections] == [anchor for anchor in anchors if anchor[1:] in sections]
    assert "curves" not in sections
    assert sections[-3:] == ["left-out", "provenance", "reproduce"]


def test_every_id_is_there_once_and_every_reference_finds_one():
    made = page(material(sweep_table(), drawn=True))
    ids = [attributes["id"] for _, attributes in made.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    used = {value for _, attributes in made.elements for value in attributes.values() if value}
    refers = {found for value in used for found in re.findall(r"^#([\w-]+)$|url\(#([\w-]+)\)", value)}
    known = {first or second for first, second in refers if not re.fullmatch("[0-9a-f]{6}", first)}
    assert known <= set(ids)
    assert len(made.all("svg")) == 2


def test_the_same_material_gives_the_same_bytes():
    table = sweep_table()
    assert render_report(material(table, drawn=True)) == render_report(material(table, drawn=True))


def test_nothing_of_a_page_lies_elsewhere_and_nothing_inline_breaks_its_policy():
    text = render_report(material(sweep_table(), drawn=True))
    made = Page(text)
    assert not re.search(r"""(src|href)=["'](?!#|data:)|@import|url\((?!#)""", text)
    assert not any("style" in attributes for _, attributes in made.elements)
    assert not any(name.startswith("on") for _, attributes in made.elements for name in attributes)
    (policy,) = [a["content"] for a in made.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_what_users_name_is_text_wherever_it_stands():
    table = sweep_table().rename(columns={"run_id": NASTY})
    table["arm"] = NASTY
    table["tokens"] = table["tokens"].astype(str) + NASTY
    question = Question(by=("tokens",), laws=(), curves=(), note=NASTY)
    made = material(table, question, title=f"folder/{NASTY}", commands=(NASTY,), notes=(NASTY,), tools={NASTY: NASTY})
    made = replace(made, report=replace(made.report, warnings=(NASTY,), excluded={NASTY: 1}))
    plain = material(sweep_table())
    text = render_report(made)
    assert "<script>alert" not in text
    assert len(Page(text).all("script")) == len(page(plain).all("script"))
    assert Page(text).text.count(NASTY) > 20


def test_names_in_the_data_of_a_long_table_cannot_end_it():
    table = pd.DataFrame({NASTY: [NASTY] * (PAGE_ROWS + 1), "n": range(PAGE_ROWS + 1)})
    text = render_grid(make_grid(results_rows(table), keep=[NASTY]), "long", "long")
    assert "<script>alert" not in text
    (data,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text)
    rows = json.loads(data)
    assert len(rows) == PAGE_ROWS + 1
    assert rows[7] == [NASTY, ["7", 7.0, ""]]


def test_a_long_table_shows_a_page_of_its_rows():
    table = pd.DataFrame({"loss": [2 + row / 1e4 for row in range(10_000)]})
    text = render_grid(make_grid(results_rows(table)), "long", "long")
    assert text.count("<tr>") == PAGE_ROWS + 1


def test_a_column_of_one_value_is_said_once():
    grid = make_grid(results_rows(pd.DataFrame({"width": [48, 48], "loss": [2.5, 2.4], "empty": [None, None]})))
    assert [column.name for column in grid.columns] == ["loss"]
    assert [(column.name, cell.text) for column, cell in grid.same] == [("width", "48")]


def test_cells_are_rounded_for_people_and_exact_for_programs():
    rows = results_rows(pd.DataFrame({"lr": [0.01523456789], "tokens": [10_400_000_000], "loss": [float("inf")]}))
    (row,) = make_grid(rows).rows
    assert [cell.text for cell in row] == ["0.01523", "10.4B", "∞"]
    assert [cell.exact for cell in row] == ["0.01523456789", "10400000000", "inf"]
    assert row[2].value < float("inf")


def test_fields_of_any_fit_become_columns_with_their_interval_beside_them():
    compared = Comparison(
        arm="muonh",
        group={"tokens": 10**9},
        loss_difference=-0.012,
        loss_low=-0.02,
        loss_high=-0.004,
        lr_shift=0.5,
        lr_shift_low=None,
        lr_shift_high=None,
        verdict="lower",
    )
    (row,) = rows_of([compared])
    shown = {column.name: cell.text for column, cell in row.items()}
    assert shown == {
        "arm": "muonh",
        "tokens": "1B",
        "ΔL": "−0.0120",
        "90 % interval of ΔL": "−0.0200 to −0.0040",
        "shift of η*": "0.50",
        "90 % interval of shift of η*": "–",
        "verdict": "lower",
    }


def test_comparisons_dependence_and_joint_fits_have_sections_once_they_hold_something():
    made = material(sweep_table())
    values = dict.fromkeys(("x", "y", "rate"), "tokens")
    joint = _any(JointFit, per={}, warnings=("mind the joint",), **values)
    dependence = _any(
        Dependence,
        x="depth",
        y="lr",
        per={"arm": "a"},
        beside=("tokens",),
        verdict="falls",
        published=-0.45,
        b=-0.5,
        b_low=-0.6,
        b_high=-0.4,
    )
    comparison = _any(Comparison, arm="muonh", group={"tokens": 10**9}, verdict="lower")
    report = replace(made.report, joint=(joint,), dependence=(dependence,), comparisons=(comparison,))
    found = page(replace(made, report=report))
    assert {"joint", "dependence", "comparisons"} <= {attributes["id"] for attributes in found.all("section")}
    assert "mind the joint" in found.text
    assert "a: η* falls with depth as depth−0.50, tokens held constant (90 % interval −0.60 to −0.40); " in found.text
    assert "the published −0.45 lies inside." in found.text


def _any(kind, **given):
    """An instance whose other numbers are 0.5."""
    return kind(**{field.name: given.get(field.name, 0.5) for field in fields(kind)})


def test_differences_over_shared_seeds_stand_below_the_comparisons():
    seeded = [
        sweep_table(budgets=1).iloc[:5].assign(arm=arm, seed=seed, loss=lambda t, g=gain + noise: t.loss + g)
        for seed, noise in enumerate((0.0, 0.3, -0.2))
        for arm, gain in (("base", 0.0), ("new", -0.015))
    ]
    question = Question(by=("tokens",), per=("arm",), laws=(), curves=(), baseline="base")
    text = page(material(pd.concat(seeded, ignore_index=True), question)).text
    assert text.index("Comparisons") < text.index("Shared seeds")
    assert text.count("-0.0150 to -0.0150") == 2


def test_a_tag_escapes_what_is_no_markup():
    assert tag("a", "<&>", tag("b", '"'), title='"<') == '<a title="&quot;&lt;">&lt;&amp;&gt;<b>&quot;</b></a>'
    assert join(None, 1, [" < ", None]) == "1 &lt; "


@pytest.mark.parametrize("colour", ["#000000", "#440154", "#004488", "#bb5566", "#666666", "#ddaa33"])
def test_a_colour_of_a_figure_can_be_told_from_the_dark_paper(colour):
    def lightness(text):
        return luminance(int(text[place : place + 2], 16) / 255 for place in (1, 3, 5))

    assert (lightness(night_of(colour)) + 0.05) / (lightness("#131518") + 0.05) >= 4.4


def test_a_report_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot be written"):
        write_report(material(sweep_table()), tmp_path / "file" / "report.html")


# ── where the results come from ────────────────────────────────────────────────────────────────────────────────────


def test_the_origin_counts_results_and_tallies_what_made_them(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    specs = tuple(run_spec(lr=lr) for lr in (0.01, 0.02, 0.04, 0.08))
    for number, spec in enumerate(specs[:3]):
        write_record(
            folder, run_record(spec, state="diverged" if number == 2 else "done", wall_time_s=10.0, world_size=2)
        )
    owner = json.loads(json.dumps(OWNER))
    for number, spec in enumerate(specs[:2]):
        attempt = folder.attempt(spec.run_id, 1)
        write_json(attempt / "owner.json", owner)
        seen = {
            "time": f"2026-03-1{number}T12:00:00+0200",
            "python": "3.11.7",
            "git_commit": "c" * 40,
            "git_dirty": True,
        }
        write_json(
            attempt / "provenance.json", seen | {"packages": {"torch": f"2.1{number}"}, "later": "unknown to us"}
        )
    origin = read_origin(tiny_sweep(), specs, folder, read_records(folder))
    assert (origin.done, origin.diverged, [spec.lr for spec in origin.missing]) == (2, 1, [0.08])
    assert (origin.device_s, origin.unknown) == (60.0, 1)
    assert f"{origin.first:%Y-%m-%d %H:%M}" == "2026-03-10 10:00"
    tallies = {(row.fact, row.value): row.runs for row in origin.tallies}
    assert tallies["git commit", "cccccccccccc with uncommitted changes"] == 2
    assert tallies["torch", "2.10"] == tallies["torch", "2.11"] == 1
    text = page(material(sweep_table(), origin=origin)).text
    assert "1 cell without a result" in text
    assert "launch the sweep again: 1 run of it has no result" in text


OWNER = {
    "owner": {
        "at": {"host": "h", "machine": "m", "boot": "b", "pid_namespace": "p"},
        "pid": 1,
        "started": 1,
        "time": 1.0,
    },
    "seat": {"job": "j"},
}


# ── the command ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_writes_a_page_of_a_file_with_the_words_that_make_it_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table_12().rename(columns={"flops": "C"}).to_csv("table 12.csv", index=False)
    words = ["--map", "flops=C", "--curve", "loss ~ flops", "--per", "arm", "--baseline", "muon"]
    done = CliRunner().invoke(app, ["report", "table 12.csv", *words])
    assert done.output.strip().endswith("report: figures/table 12/report.html")
    text = Page((tmp_path / "figures" / "table 12" / "report.html").read_text()).text
    assert "sweeper fit 'table 12.csv' --map flops=C --per arm --curve 'loss ~ flops' --baseline muon\n" in text
    assert "sweeper plot 'table 12.csv' --map flops=C --per arm --curve 'loss ~ flops' --baseline muon\n" in text


def test_the_command_goes_where_it_is_told(tmp_path):
    source, out = tmp_path / "runs.csv", tmp_path / "pages" / "mine.html"
    sweep_table().to_csv(source, index=False)
    done = CliRunner().invoke(app, ["report", str(source), "--out", str(out), "--method", "parabola"])
    assert done.exit_code == 0, done.output
    assert "a parabola in ln η" in out.read_text()


def test_next_runs_are_those_that_suggest_gives_where_there_are_some():
    suggestion = Suggestion(group={"tokens": 131072}, why="extend", lrs=(0.113,), half_width=None, expected=None)
    row = SuggestedRuns(suggestion=suggestion, flops=1e12, cells=(), waiting=0)
    report = FitReport(
        runs=3, rate="lr", method="linex", excluded={}, optima=(), laws=(), curves=(), leverage=(), warnings=()
    )
    (step,) = next_steps(report, 0, [row])
    assert step == "run 0.113 for tokens 131K: the best rate is the outermost"
    assert next_steps(report, 0, [replace(row, suggestion=replace(suggestion, why="done", lrs=()))]) == []
