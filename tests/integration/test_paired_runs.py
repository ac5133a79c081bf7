"""The quickstart's runs on every fast path, and once more on the plain reference: what a sweep answers is the same.

Fast is as `launch.fuse=8` trains: stacks, the loss in chunks (small ones, for so few logits are not cut otherwise) and
Newton–Schulz on the Gram matrix. Plain is run by run on `kernels.reference`.

MuonH at good rates is chaotic: what rounding leaves grows up to tenfold a step at the highest rates here, in float64 as
in float32. So whole runs are compared below that, first steps everywhere, and of all runs what the sweep asks for.
"""

import sys
from dataclasses import dataclass
from itertools import combinations
from math import log

import pytest

import sweeper
from kernels import chunked, primitives, reference
from model.config import Execution
from model.train import Member, train
from sweeper.loads import loads

pytestmark = pytest.mark.slow

EXECUTION = Execution(device="cpu", log_every=1, stability_every=0)
EXACT = ("precision=float64", "optimizer.ns_dtype=float64")
CHUNK = 2**16
"""Logits of a chunk: eight for each pass of the quickstart."""


GRID_STEP = 1.6
"""Ratio of neighbouring rates of the quickstart."""


class Watched:
    """Keeps the training losses of each member, step by step."""

    def __init__(self):
        self.losses = {}

    def metrics(self, member, row):
        self.losses.setdefault(member, []).append(row["loss"])

    def progress(self, member, step, steps, tokens_per_s):
        pass

    def note(self, member, text):
        raise AssertionError(f"{member}: {text}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The runs of a sweep by number: final losses, and training losses step by step."""

    final: list[float]
    steps: list[list[float]]


def quickstart(*overrides):
    return sweeper.expand(sweeper.load_sweep("quickstart", list(overrides)))


def trained(specs, fuse, folder, together):
    equal = dict.fromkeys((spec.run_id for spec in specs), 1.0)
    stacks = loads(specs, equal, fuse, EXECUTION, longest_s=1e9, gpu=False, budget_gib=8.0, memory_gib=equal)
    final, steps = {}, {}
    for load in stacks:
        watched = Watched()
        members = [Member(config=spec.train, checkpoints=folder / spec.run_id) for spec in load.runs]
        outcomes = train(members, EXECUTION, watched, lambda: False)
        assert [(outcome.state, outcome.stack) for outcome in outcomes] == [("done", together)] * len(members)
        for number, (spec, outcome) in enumerate(zip(load.runs, outcomes, strict=True)):
            final[spec.run_id], steps[spec.run_id] = outcome.loss, watched.losses[number]
    return Trained(final=[final[spec.run_id] for spec in specs], steps=[steps[spec.run_id] for spec in specs])


def both(specs, folder):
    """Trained fast and plain."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "CHUNK_LOGITS", CHUNK)
        fast = trained(specs, 8, folder / "fast", together=5)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in sorted(sys.modules.items()):
            for primitive in primitives.__all__:
                if name.startswith("model.") and hasattr(module, primitive):
                    patch.setattr(module, primitive, getattr(reference, primitive.rstrip("_")))
        plain = trained(specs, "off", folder / "plain", together=1)
    assert fast != plain, "the same paths were taken"
    return fast, plain


@pytest.fixture(scope="module")
def in_float32(tmp_path_factory):
    specs = quickstart("axes.tokens=[65536, 131072]")
    return specs, *both(specs, tmp_path_factory.mktemp("float32"))


def optima(specs, found):
    losses = sweeper.make_losses(
        [spec.lr_peak for spec in specs],
        found.final,
        covariates={"tokens": [float(spec.train.tokens) for spec in specs]},
    )
    return sweeper.fit_lr_optima(losses)


def test_in_float64_the_losses_are_the_same_to_eight_digits(tmp_path):
    specs = quickstart(*EXACT, "axes.tokens=[32768]")
    fast, plain = both(specs, tmp_path)
    assert [spec.lr for spec in specs] == sorted(spec.lr for spec in specs)
    for one, other in zip(fast.steps, plain.steps, strict=True):
        assert one[:8] == pytest.approx(other[:8], rel=1e-8)
    for one, other in zip(fast.steps[:3], plain.steps[:3], strict=True):
        assert one == pytest.approx(other, rel=1e-8)
    assert fast.final[:3] == pytest.approx(plain.final[:3], rel=1e-8)


def test_in_float32_the_first_twenty_losses_are_the_same_to_five_digits(in_float32):
    specs, fast, plain = in_float32
    calm = [i for i, spec in enumerate(specs) if (spec.lr < 0.3 and spec.train.tokens == 65_536) or spec.lr < 0.2]
    assert len(calm) == 4
    for i in calm:
        assert fast.steps[i][:20] == pytest.approx(plain.steps[i][:20], rel=1e-5)


def test_the_fitted_optima_are_the_same_within_a_quarter_of_a_step_of_the_grid(in_float32):
    specs, fast, plain = in_float32
    for one, other in zip(optima(specs, fast), optima(specs, plain), strict=True):
        assert one.status == other.status == "ok"
        assert abs(log(one.lr / other.lr)) < 0.25 * log(GRID_STEP)


def test_runs_that_differ_by_two_percent_come_in_the_same_order(in_float32):
    specs, fast, plain = in_float32
    apart = [
        (i, j)
        for i, j in combinations(range(len(specs)), 2)
        if specs[i].train.tokens == specs[j].train.tokens and abs(log(plain.final[i] / plain.final[j])) > 0.02
    ]
    assert len(apart) > 10
    assert all((fast.final[i] < fast.final[j]) == (plain.final[i] < plain.final[j]) for i, j in apart)
