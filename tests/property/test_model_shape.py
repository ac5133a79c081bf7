from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from model.config import ModelConfig
from model.parameters import parameters
from model.shape import activation_bytes, model_shape


@st.composite
def models(draw, mlp=None):
    head_size, kv_heads, groups = draw(st.sampled_from([8, 16])), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    mixture = (mlp or draw(st.sampled_from(["dense", "moe"]))) == "moe"
    top_k = draw(st.sampled_from([2, 4, 8])) if mixture else 1
    return ModelConfig(
        width=head_size * kv_heads * groups,
        depth=draw(st.integers(1, 6)),
        head_size=head_size,
        attention_ratio=draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        mlp_ratio=draw(st.sampled_from([8, 16])),
        vocab=draw(st.integers(2, 1000)),
        context=draw(st.integers(1, 512)),
        qk_norm=draw(st.booleans()),
        headwise_gate=draw(st.booleans()),
        mlp="moe" if mixture else "dense",
        top_k=top_k,
        sparsity=draw(st.integers(1, 8)) if mixture else 1,
        shared_expert=draw(st.booleans()) if mixture else True,
    )


@given(model=models(mlp="moe"))
def test_a_mixture_has_the_active_params_and_flops_of_its_dense_model(model):
    dense = replace(model, mlp="dense", sparsity=1, top_k=1)
    assert model_shape(model).params == model_shape(dense).params
    assert model_shape(model).flops_per_token == model_shape(dense).flops_per_token


@given(model=models())
def test_active_params_are_part_of_all_and_causal_flops_of_full_ones(model):
    shape = model_shape(model)
    assert shape.params <= shape.params_total
    assert shape.params <= shape.params_paper_total
    assert shape.flops_per_token_causal < shape.flops_per_token


@given(model=models())
def test_a_layer_adds_the_same_to_every_count(model):
    one, two, three = (model_shape(replace(model, depth=depth)) for depth in (1, 2, 3))
    for count in ("params", "params_total", "params_paper_total", "flops_per_token", "flops_per_token_causal"):
        first, second = (getattr(b, count) - getattr(a, count) for a, b in ((one, two), (two, three)))
        assert first == second > 0


@given(model=models())
def test_a_longer_context_costs_flops_but_no_params_and_no_bytes_per_token(model):
    longer = replace(model, context=2 * model.context)
    assert parameters(longer) == parameters(model)
    assert model_shape(longer).flops_per_token > model_shape(model).flops_per_token
    assert activation_bytes(longer, "float32") == activation_bytes(model, "float32")
