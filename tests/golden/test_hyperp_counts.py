import pytest

from model.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    Rates,
    ScheduleConfig,
    Seeds,
    TrainConfig,
)
from model.parameters import parameters
from model.shape import model_shape

HYPERP_LADDER = [  # depth, N, T at 50 tokens per parameter, FLOPs, steps, MoE total in billions at S = 8, k = 8
    # HyperP §4 (arXiv 2603.28743): T = 10.4e9 · N/N(8), batch 2^21 tokens; FLOPs and totals as printed, to 3-4 digits.
    (8, 208_142_336, 10_400_000_000, 2.136e19, 4959, 0.913),
    (12, 570_163_200, 28_488_664_987, 1.491e20, 13584, 2.950),
    (16, 1_238_368_256, 61_876_070_528, 6.591e20, 29505, 6.878),
    (20, 2_313_420_800, 115_591_939_546, 2.186e21, 55119, 13.327),
    (24, 3_895_984_128, 194_665_994_962, 5.961e21, 92824, 22.926),
]
HYPERP_SPARSITY = [(1, 0.208), (2, 0.309), (4, 0.510), (8, 0.913), (16, 1.719), (32, 3.330)]
"""Sparsity S and total parameters in billions at d = 8, k = 4 (arXiv 2603.28743, table 10)."""
HYPERP_RADII = {  # Frobenius norm at the start for d = 8: √(fan_out/3), head 0.02 · √(32000 · 1024)
    "blocks.0.attention.query": 26.13,
    "blocks.0.attention.key": 13.06,
    "blocks.0.attention.value": 13.06,
    "blocks.0.attention.gate": 2.31,
    "blocks.0.attention.output": 18.48,
    "blocks.0.mlp.gate_up": 52.26,
    "blocks.0.mlp.down": 18.48,
    "head": 114.5,
}


def ladder(depth, **changes):
    return ModelConfig(depth=depth, width=128 * depth, **changes)


def run(depth, tokens):
    return TrainConfig(
        model=ladder(depth),
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(),
        data=DataConfig(),
        evaluation=EvaluationConfig(),
        seed=Seeds(),
        rates=Rates(hidden=0.02, head=0.02, embedding=0.02, vector=0.02),
        tokens=tokens,
        batch_tokens=2**21,
    )


def column(name):
    """Cases of depth and one more column of the ladder."""
    columns = ("depth", "params", "tokens", "flops", "steps", "moe_billions")
    rows = [dict(zip(columns, row, strict=True)) for row in HYPERP_LADDER]
    return pytest.mark.parametrize(("depth", name), [(row["depth"], row[name]) for row in rows])


@column("params")
def test_params(depth, params):
    assert model_shape(ladder(depth)).params == params


@column("params")
def test_params_do_not_count_norms_and_the_gate(depth, params):
    assert model_shape(ladder(depth, qk_norm=False, headwise_gate=False)).params == params


@column("params")
def test_params_of_a_mixture_are_its_active_ones(depth, params):
    assert model_shape(ladder(depth, mlp="moe", sparsity=8, top_k=8)).params == params


@column("tokens")
def test_tokens_at_50_per_parameter(depth, tokens):
    assert 10_400_000_000 * model_shape(ladder(depth)).params // model_shape(ladder(8)).params == tokens


@pytest.mark.parametrize(("depth", "tokens", "flops"), [(row[0], row[2], row[3]) for row in HYPERP_LADDER])
def test_flops(depth, tokens, flops):
    assert tokens * model_shape(ladder(depth)).flops_per_token == pytest.approx(flops, rel=3e-4)


@pytest.mark.parametrize(("depth", "tokens", "steps"), [(row[0], row[2], row[4]) for row in HYPERP_LADDER])
def test_steps(depth, tokens, steps):
    assert run(depth, tokens).steps == steps


@column("moe_billions")
def test_totals_of_the_mixture(depth, moe_billions):
    mixture = model_shape(ladder(depth, mlp="moe", sparsity=8, top_k=8))
    assert round(mixture.params_paper_total / 1e9, 3) == moe_billions


@pytest.mark.parametrize(("sparsity", "billions"), HYPERP_SPARSITY)
@pytest.mark.parametrize("shared_expert", [True, False])
def test_totals_by_sparsity(sparsity, billions, shared_expert):
    mixture = ladder(8, mlp="moe", sparsity=sparsity, top_k=4, shared_expert=shared_expert)
    assert round(model_shape(mixture).params_paper_total / 1e9, 3) == billions


@pytest.mark.parametrize(("depth", "ratio"), [(8, 1.41), (24, 1.16)])
def test_the_papers_flops_exceed_the_causal_ones(depth, ratio):
    shape = model_shape(ladder(depth))
    assert shape.flops_per_token / shape.flops_per_token_causal == pytest.approx(ratio, abs=0.005)


@pytest.mark.parametrize(("name", "radius"), HYPERP_RADII.items())
def test_radii_at_depth_8(name, radius):
    table = {p.name: p for p in parameters(ladder(8))}
    assert table[name].radius == pytest.approx(radius, rel=5e-4)
