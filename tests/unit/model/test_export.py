"""What is exported computes the same as what was trained."""

import itertools
from dataclasses import replace

import pytest
import torch
from vector_models import DENSE, MIXTURE, ONE, TOKENS, VARIANTS, randomise

from model.config import VectorsConfig
from model.export import fold, hugging_face, materialised, write_hugging_face
from model.transformer import Transformer

MODELS = {
    "dense": DENSE,
    "dense with a key for each query": replace(DENSE, kv_heads=8),
    "sandwich": replace(DENSE, sandwich_norm=True),
    "without QK-norm": replace(DENSE, qk_norm=False, headwise_gate=False),
    "mixture": MIXTURE,
    "mixture without a shared expert": replace(MIXTURE, shared_expert=False, gate="classical"),
}


def trained(config, dtype=torch.float64):
    return randomise(Transformer(config, ONE, seed=1, dtype=dtype))


@pytest.mark.parametrize("vectors", [*VARIANTS, VectorsConfig(enabled=False)])
@pytest.mark.parametrize("model", MODELS)
def test_folding_leaves_the_logits(model, vectors):
    for experts in ("shared_in", "own", "shared") if vectors.enabled else ("shared_in",):
        config = replace(MODELS[model], vectors=replace(vectors, experts=experts))
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
            module = trained(config, dtype)
            folded = fold(config, dict(module.named_parameters()))
            other = Transformer(folded.config, ONE, seed=9, dtype=dtype)
            other.load_state_dict(dict(folded.weights), strict=True)
            torch.testing.assert_close(other(TOKENS), module(TOKENS), rtol=0, atol=tolerance)


@pytest.mark.parametrize("reparam", ["or", "er"])
def test_materialising_leaves_the_logits(reparam):
    config = replace(MIXTURE, vectors=VectorsConfig(hetero=True, placement="dnp", reparam=reparam))
    module = trained(config)
    plain, weights = materialised(config, dict(module.named_parameters()))
    other = Transformer(plain, ONE, seed=9, dtype=torch.float64)
    other.load_state_dict(weights, strict=True)
    torch.testing.assert_close(other(TOKENS), module(TOKENS), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("hetero", "placement"), [*itertools.product((False, True), ("standard", "dp", "dnp"))])
def test_what_stays_is_named(hetero, placement):
    config = replace(DENSE, depth=1, vectors=VectorsConfig(hetero=hetero, placement=placement))
    made = fold(config, dict(trained(config).named_parameters()))
    stays = {
        "standard": {"attention.query_norm", "attention.key_norm"},
        "dp": {"attention.query_norm", "attention.key_norm"},
        "dnp": {"attention.query_out", "attention.key_out", "mlp.gate_out"},
    }[placement]
    assert {name.removeprefix("blocks.0.") for name in made.kept} == stays
    for name, weight in made.weights.items():
        if name.endswith(".gain") and name.removesuffix(".gain") not in made.kept:
            assert (weight == 1).all()
    assert set(made.folded) | set(made.kept) == {
        name.rpartition(".")[0] for name, _ in Transformer(config, ONE, seed=1).named_parameters() if ".gain" in name
    }


PLAIN = replace(DENSE, qk_norm=False, headwise_gate=False)
MOE = replace(MIXTURE, shared_expert=False, gate="classical", headwise_gate=False)
UNIFIED_BUT_DNP = VectorsConfig(hetero=True, placement="dp", reparam="or")


@pytest.mark.parametrize("vectors", [VectorsConfig(), UNIFIED_BUT_DNP, VectorsConfig(enabled=False)])
@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (PLAIN, "llama"),
        (replace(DENSE, headwise_gate=False), "qwen3"),
        (DENSE, "qwen3_next"),
        (replace(PLAIN, headwise_gate=True), ""),
        (MOE, "qwen3_moe"),
        (replace(MOE, top_k=1, sparsity=8), "qwen3_moe"),
    ],
)
def test_transformers_computes_the_same_logits(model, kind, vectors, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = replace(model, vectors=vectors)
    rates = replace(ONE, residual_multiplier=0.35, logit_multiplier=1.7)
    module = randomise(Transformer(config, rates, seed=1, dtype=torch.float64))
    folded = fold(config, dict(module.named_parameters()))
    if not kind:
        with pytest.raises(ValueError, match="headwise_gate without QK-norm"):
            hugging_face(folded, rates)
        return
    made = hugging_face(folded, rates)
    assert made.config["model_type"] == kind
    write_hugging_face(made, tmp_path / "hf")
    # The grouped product of experts knows no float64.
    eager = {"experts_implementation": "eager"} if kind == "qwen3_moe" else {}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float64, **eager)
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKENS).logits, module(TOKENS), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (replace(DENSE, sandwich_norm=True), "sandwich_norm"),
        (replace(DENSE, vectors=VectorsConfig(placement="dnp")), "vectors.placement=dnp"),
        (MIXTURE, "shared_expert"),
        (replace(MIXTURE, shared_expert=False), "gate=sqrt"),
        (replace(MOE, headwise_gate=True), "headwise_gate"),
        (replace(MOE, qk_norm=False), "QK-norm"),
    ],
)
def test_what_no_architecture_of_transformers_computes_is_refused_by_name(model, words):
    with pytest.raises(ValueError, match=words):
        hugging_face(fold(model, dict(trained(model).named_parameters())), ONE)
