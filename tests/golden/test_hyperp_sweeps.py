"""The experiments of HyperP (arXiv 2603.28743 §4 and §5): every file plans at every scale, within its means."""

from functools import cache
from pathlib import Path

import pytest

from model.shape import model_shape
from sweeper.config import load_sweep
from sweeper.grid import expand
from sweeper.plan import make_plan
from sweeper.spec import RunSpec

FOLDER = Path(__file__).parents[2] / "sweeps" / "hyperp"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
TINY_FLOPS = 2.5e13
"""Ten minutes on two cores, which do 5e10 FLOPs a second with models of this size (measured)."""
SMALL_FLOPS = {"tokens": 1.2e17}
"""Of one H200 in 20 minutes at 10 % of its bf16 peak."""
MOST_SMALL_FLOPS = 2.5e17
"""The same in 30 minutes at 14 %."""


@cache
def specs_of(name: str, scale: str) -> tuple[RunSpec, ...]:
    return expand(load_sweep(f"hyperp/{name}", [f"scale={scale}"]))


def flops(specs: tuple[RunSpec, ...]) -> float:
    return sum(model_shape(spec.train.model).flops_per_token * spec.train.tokens for spec in specs)


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_plans_at_every_scale(name, scale):
    sweep = load_sweep(f"hyperp/{name}", [f"scale={scale}"])
    plan = make_plan(sweep.name, specs_of(name, scale), {}, sweep.cluster, sweep.execution)
    assert plan.device == ("cpu-core" if scale == "tiny" else "h200")
    assert plan.totals.flops == pytest.approx(flops(specs_of(name, scale)))


def test_every_experiment_has_a_file():
    titles = [load_sweep(f"hyperp/{name}").title for name in NAMES]
    assert sorted(int(title.split("HyperP E")[1].rstrip(")")) for title in titles) == list(range(1, 16))


@pytest.mark.parametrize("name", NAMES)
def test_tiny_keeps_its_structure_and_takes_minutes(name):
    specs = specs_of(name, "tiny")
    assert flops(specs) <= TINY_FLOPS
    for spec in specs:
        model = spec.train.model
        assert (model.width, model.head_size) == (32 * model.depth, 16)
        assert spec.train.tokens <= 5 * model_shape(model).params


@pytest.mark.parametrize("name", NAMES)
def test_small_takes_half_an_hour_of_one_gpu(name):
    specs = specs_of(name, "small")
    assert flops(specs) <= SMALL_FLOPS.get(name, MOST_SMALL_FLOPS)
    assert {spec.train.precision for spec in specs} == {"bfloat16"}


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_scale_is_its_own(name):
    for spec in specs_of(name, "paper"):
        train, transfer = spec.train, spec.transfer
        assert (train.model.width, train.model.context) == (128 * train.model.depth, 4096)
        assert train.batch_tokens <= 2**21
        assert (transfer.depth_reference, transfer.tokens_reference, transfer.batch_reference) == (8, 10.4e9, 2**21)


LADDER = [  # d, N, T at 50 tokens per parameter, FLOPs, steps: HyperP §4 (arXiv 2603.28743)
    (8, 208_142_336, 10_400_000_000, 2.136e19, 4959),
    (12, 570_163_200, 28_488_664_987, 1.491e20, 13584),
    (16, 1_238_368_256, 61_876_070_528, 6.591e20, 29505),
    (20, 2_313_420_800, 115_591_939_546, 2.186e21, 55119),
    (24, 3_895_984_128, 194_665_994_962, 5.961e21, 92824),
]


def test_the_ladder_of_the_paper_has_its_sizes_budgets_and_steps():
    specs = [spec for spec in specs_of("flops", "paper") if spec.arm == "hyperp"]
    for spec, (depth, params, tokens, cost, steps) in zip(specs, LADDER, strict=True):
        shape = model_shape(spec.train.model)
        assert (spec.train.model.depth, shape.params, spec.train.steps) == (depth, params, steps)
        assert spec.train.tokens == tokens
        assert shape.flops_per_token * spec.train.tokens == pytest.approx(cost, rel=5e-4)


def test_the_arms_of_the_paper_start_from_its_base_rates():
    # HyperP §4.5: tuned once at d = 8.
    rates = {spec.arm: spec.lr for spec in specs_of("flops", "paper") if spec.train.model.depth == 8}
    assert rates == pytest.approx({"muon": 0.02, "muonh": 0.01, "hyperp": 0.02, "hyperp_moe": 0.01})


COARSE = (0.002, 0.004, 0.008, 0.01, 0.02, 0.04)
EVERY = tuple(round(0.002 * i, 3) for i in range(1, 11))
MOE_RATES = (0.004, 0.008, 0.01, 0.012, 0.014, 0.016, 0.02)
AT_PAPER = {  # (file, arm): (S, k), depths, base rates; HyperP §4 and §5, tables 2 to 16
    ("tokens", "base"): ((1, 1), {8}, (0.004, 0.006, *MOE_RATES[1:6], 0.018)),
    ("weight_decay", "muonh"): ((1, 1), {8}, (0.002, 0.004, 0.008, 0.01, 0.02)),
    ("weight_decay", "muon"): ((1, 1), {8}, (0.004, 0.008, 0.01, 0.02, 0.04)),
    ("depth", "with"): ((1, 1), {8, 12, 16, 20, 24}, EVERY),
    ("depth", "without"): ((1, 1), {8, 12, 16, 20, 24}, EVERY),
    ("aux_weight", "base"): ((8, 4), {8}, (0.004, 0.008, 0.01, 0.012, 0.02)),
    ("granularity", "sqrt_gate"): ((8, None), {8}, None),
    ("granularity", "classical"): ((8, None), {8}, None),
    ("transfer", "hyperp"): ((1, 1), {8, 12, 16, 20}, COARSE),
    ("transfer", "without"): ((1, 1), {8, 12, 16, 20}, COARSE),
    ("flops", "muon"): ((1, 1), {8, 12, 16, 20, 24}, (0.02,)),
    ("flops", "muonh"): ((1, 1), {8, 12, 16, 20, 24}, (0.01,)),
    ("flops", "hyperp"): ((1, 1), {8, 12, 16, 20, 24}, (0.02,)),
    ("flops", "hyperp_moe"): ((8, 8), {8, 12, 16, 20}, (0.01,)),
    ("stability", "base"): ((8, 8), {8, 12, 16, 20}, (0.01,)),
    ("ablations", "ga_qk_norm"): ((1, 1), {8}, MOE_RATES),
    ("ablations", "moe_shared"): ((8, 8), {8}, MOE_RATES),
    ("ablations", "moe_sqrt"): ((8, 8), {8}, MOE_RATES),
    ("ablations", "moe_shared_sqrt"): ((8, 8), {8}, MOE_RATES),
    ("ablation_scaling_dense", "baseline"): ((1, 1), {8, 12, 16, 20}, (0.015,)),
    ("ablation_scaling_dense", "qk_norm"): ((1, 1), {8, 12, 16, 20}, (0.015,)),
    ("ablation_scaling_dense", "ga_qk_norm"): ((1, 1), {8, 12, 16, 20}, (0.016,)),
    ("ablation_scaling_moe", "low_rate"): ((8, 8), {8, 12, 16, 24}, (0.01,)),
    ("ablation_scaling_moe", "shared"): ((8, 8), {8, 12, 16, 24}, (0.014,)),
    ("ablation_scaling_moe", "sqrt"): ((8, 8), {8, 12, 16, 24}, (0.014,)),
    ("ablation_scaling_moe", "shared_sqrt"): ((8, 8), {8, 12, 16, 24}, (0.014,)),
    ("ablation_stability", "ga_qk_norm"): ((1, 1), {20}, (0.016,)),
    ("ablation_stability", "moe_shared"): ((8, 8), {16}, (0.014,)),
    ("ablation_stability", "moe_shared_sqrt"): ((8, 8), {16}, (0.014,)),
}


@pytest.mark.parametrize(("name", "arm"), AT_PAPER)
def test_the_grids_of_the_paper_are_planned(name, arm):
    (sparsity, top_k), depths, rates = AT_PAPER[name, arm]
    specs = [spec for spec in specs_of(name, "paper") if spec.arm == arm]
    assert {spec.train.model.sparsity for spec in specs} == {sparsity}
    assert top_k is None or {spec.train.model.top_k for spec in specs} == {top_k}
    assert {spec.train.model.depth for spec in specs} == depths
    assert rates is None or sorted({spec.lr for spec in specs}) == pytest.approx(rates)


def test_the_other_axes_of_the_paper_are_planned():
    def values(name, of):
        return sorted({of(spec) for spec in specs_of(name, "paper")})

    assert values("tokens", lambda spec: spec.train.tokens) == [10.4e9 * 2**i for i in range(5)]
    assert values("weight_decay", lambda spec: spec.train.optimizer.weight_decay) == [0, 4e-4, 8e-4, 1e-3, 2e-3, 4e-3]
    assert values("batch", lambda spec: spec.train.batch_tokens) == [2**18, 2**19, 2**20, 2**21]
    assert values("aux_weight", lambda spec: spec.train.model.aux_weight) == [1e-3, 1e-2, 1e-1]
    assert values("sparsity", lambda spec: spec.train.model.sparsity) == [1, 2, 4, 8, 16, 32]
    assert values("granularity", lambda spec: spec.train.model.top_k) == [2, 4, 8, 16, 32, 64]
    assert values("sensitivity", lambda spec: spec.train.tokens) == values("tokens", lambda spec: spec.train.tokens)


@pytest.mark.parametrize(
    ("name", "arm", "switches"),
    [
        ("aux_weight", "base", ("classical", False)),
        ("granularity", "sqrt_gate", ("sqrt", True)),
        ("granularity", "classical", ("classical", True)),
        ("ablations", "moe_shared", ("classical", True)),
        ("ablations", "moe_sqrt", ("sqrt", False)),
        ("ablations", "moe_shared_sqrt", ("sqrt", True)),
        ("ablation_stability", "moe_shared", ("classical", True)),
        ("ablation_scaling_moe", "sqrt", ("sqrt", False)),
        ("flops", "hyperp_moe", ("sqrt", True)),
    ],
)
def test_the_parts_of_mixtures_are_those_of_the_paper(name, arm, switches):
    for scale in ("tiny", "small", "paper"):
        models = {spec.train.model for spec in specs_of(name, scale) if spec.arm == arm}
        assert {(model.gate, model.shared_expert) for model in models} == {switches}
