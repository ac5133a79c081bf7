"""Reports to look at in tests, made from tables whose numbers are known."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from sweeper.analysis import fit_question
from sweeper.figures import plot_question
from sweeper.report import Material, figures_for
from sweeper.spec import Question

HYPERP_TABLE_12 = [  # arm, depth, FLOPs, loss: HyperP table 12 (arXiv 2603.28743)
    ("muon", 8, 2.1363e19, 2.4777),
    ("muon", 12, 1.4908e20, 2.2257),
    ("muon", 16, 6.5907e20, 2.0671),
    ("muon", 20, 2.1863e21, 1.9591),
    ("muon", 24, 5.9614e21, 1.8785),
    ("muonh_hyperp", 8, 2.1363e19, 2.4804),
    ("muonh_hyperp", 12, 1.4908e20, 2.2192),
    ("muonh_hyperp", 16, 6.5907e20, 2.0526),
    ("muonh_hyperp", 20, 2.1863e21, 1.9311),
    ("muonh_hyperp", 24, 5.9614e21, 1.8365),
]
CREATED = datetime(2026, 3, 14, 15, 9, tzinfo=UTC)
NASTY = """<script>alert("x")</script> & 'y' </title>"""
"""What a name must not be able to do to a page."""


def table_12() -> pd.DataFrame:
    return pd.DataFrame(HYPERP_TABLE_12, columns=["arm", "depth", "flops", "loss"])


def sweep_table(budgets: int = 3, rates: int = 5) -> pd.DataFrame:
    """Valleys of loss whose best rate falls as tokens^-0.5, one diverged run and one without a loss beside them."""
    rows = []
    for budget in range(budgets):
        tokens, best = 2**budget * 10**9, 0.02 * 2 ** (-budget / 2)
        for step in range(rates):
            off = (step - rates // 2) * 0.7
            rows.append(
                (f"run-{budget}-{step}", "done", best * 2.718281828**off, tokens, 3 - 0.1 * budget + 0.02 * off**2)
            )
    rows += [("run-gone", "diverged", 0.2, 10**9, 11.0), ("run-lost", "done", 0.01, 10**9, float("nan"))]
    return pd.DataFrame(rows, columns=["run_id", "state", "lr", "tokens", "loss"])


def material(table: pd.DataFrame, question: Question | None = None, *, drawn: bool = False, **changes: Any) -> Material:
    """What a page of the table is made of; without figures, which take their time, unless it is to be drawn."""
    question = question or Question(laws=("lr ~ tokens",), curves=(), reference="hyperp")
    report = fit_question(table, question)
    shown = replace(question, figures=figures_for(report, question))
    figures = plot_question(table, shown, report) if drawn else {}
    usual = {"title": "runs.csv", "created": CREATED, "commands": ("sweeper fit runs.csv",), "tools": {"numpy": "2.0"}}
    return Material(table=table, question=question, report=report, figures=figures, **(usual | changes))
