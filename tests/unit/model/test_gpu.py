"""Training on an NVIDIA GPU against training on the CPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import Case, Trained, config, train_alone

from kernels import grouped, reference
from kernels.triton.newton_schulz import newton_schulz as newton_schulz_triton
from kernels.triton.sphere_step import sphere_step_ as sphere_step_triton
from model.config import ModelConfig, OptimizerConfig, TrainConfig
from model.optimizer import make_optimizer
from model.sharding import ALONE
from model.transformer import Transformer

pytestmark = pytest.mark.gpu

DENSE = ModelConfig(width=64, depth=2, head_size=16, kv_heads=2, vocab=64, context=64)
MIXTURE = replace(DENSE, mlp="moe", sparsity=4, top_k=4, shared_expert=True)
MODELS = pytest.mark.parametrize("model", [DENSE, MIXTURE], ids=["dense", "moe"])


def train_config(model: ModelConfig, *, precision: str = "float32", steps: int = 20) -> TrainConfig:
    small = config(model, float64=False)
    optimizer = OptimizerConfig(name="muonh", ns_dtype=precision)
    batch_tokens = 12 * model.context
    return replace(
        small, optimizer=optimizer, precision=precision, batch_tokens=batch_tokens, tokens=steps * batch_tokens
    )


def trained(folder: Path, train: TrainConfig, device: str, **execution: Any) -> Trained:
    return train_alone(Case(folder=folder, config=train, execution={"device": device, **execution}))


@MODELS
def test_a_run_has_the_losses_that_it_has_on_the_cpu(tmp_path, model):
    found, expected = (
        trained(tmp_path / device, train_config(model), device, stability_every=5) for device in ("cuda", "cpu")
    )
    assert found.losses == pytest.approx(expected.losses, abs=2e-3)
    assert found.outcome["loss"] == pytest.approx(expected.outcome["loss"], abs=2e-3)
    for row, of_cpu in zip(found.rows, expected.rows, strict=True):
        measured = {name for name in of_cpu if name.startswith("stability/")}
        assert measured == {name for name in row if name.startswith("stability/")}
    first, of_cpu = found.rows[0], expected.rows[0]
    for name in (name for name in of_cpu if name.startswith("stability/")):
        assert first[name] == pytest.approx(of_cpu[name], rel=1e-3, abs=1e-5), name


@MODELS
def test_in_bfloat16_a_run_learns_what_it_learns_in_float32(tmp_path, model):
    found = trained(tmp_path / "low", train_config(model, precision="bfloat16"), "cuda")
    expected = trained(tmp_path / "full", train_config(model), "cuda")
    assert found.outcome["loss"] == pytest.approx(expected.outcome["loss"], abs=0.05)
    assert found.losses[-1] < found.losses[0] - 0.1


@MODELS
def test_an_interrupted_run_ends_as_the_whole_one(tmp_path, model):
    train = train_config(model)
    whole = trained(tmp_path / "whole", train, "cuda")
    case = Case(folder=tmp_path / "parts", config=train, execution={"device": "cuda"}, stop_after=1)
    first = train_alone(case)
    assert first.outcome["state"] == "stopped"
    rest = train_alone(replace(case, stop_after=10**9))
    assert [row["step"] for row in (*first.rows, *rest.rows)] == list(range(1, 21))
    assert rest.outcome["loss"] == pytest.approx(whole.outcome["loss"], abs=1e-3)


@pytest.mark.parametrize("ns_dtype", ["float32", "bfloat16"])
def test_matrices_stay_on_their_spheres(ns_dtype):
    train = replace(train_config(MIXTURE), optimizer=OptimizerConfig(name="muonh", ns_dtype=ns_dtype))
    model = Transformer(train.model, train.rates, seed=1, dtype=torch.float32).cuda()
    optimizer = make_optimizer(model, train, ALONE)
    on_sphere = [(group, i) for i, group in enumerate(optimizer.groups) if group.on_sphere]
    before = [group.radius(torch.stack(list(optimizer.weights[i]))) for group, i in on_sphere]
    generator = torch.Generator("cuda").manual_seed(0)
    for _ in range(100):
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, device="cuda", generator=generator)
        optimizer.step(1.0)
    after = [group.radius(torch.stack(list(optimizer.weights[i]))) for group, i in on_sphere]
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_grouped_product_agrees_with_the_reference(dtype):
    counts = torch.tensor([300, 0, 400, 100], device="cuda")
    results = []
    for product in (grouped.grouped_linear, reference.grouped_linear):
        generator = torch.Generator("cuda").manual_seed(0)
        x = torch.randn(800, 64, device="cuda", generator=generator).to(dtype).requires_grad_()
        weight = torch.randn(4, 96, 64, device="cuda", generator=generator).requires_grad_()
        y = product(x, weight, counts)
        y.backward(torch.randn(800, 96, device="cuda", generator=generator).to(dtype))
        results.append((y.detach(), x.grad, weight.grad))
    for one, other in zip(*results, strict=True):
        tolerance = {} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.1}
        torch.testing.assert_close(one, other, **tolerance)


def test_bfloat16_takes_the_grouped_product():
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("torch has a grouped product from compute capability 9.0 on")
    assert grouped.runs("cuda", torch.bfloat16)


@pytest.mark.parametrize("triton", [False, True])
@MODELS
def test_a_captured_step_that_is_replayed_is_the_step(model, triton):
    train = replace(train_config(model), optimizer=OptimizerConfig(name="muonh", ns_dtype="float32"))
    ours, theirs = (Transformer(train.model, train.rates, seed=1, dtype=torch.float32).cuda() for _ in range(2))
    captured, eager = (make_optimizer(module, train, triton=triton) for module in (ours, theirs))
    for weight in ours.parameters():
        weight.grad = torch.zeros_like(weight)
    generator = torch.Generator("cuda").manual_seed(0)
    graph = torch.cuda.CUDAGraph()
    for step in range(5):
        for weight, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            weight.grad.normal_(generator=generator)
            other.grad = weight.grad.clone()
        captured.fill(1 - 0.2 * step)
        if step == 0:
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                captured.filled_step()
            torch.cuda.current_stream().wait_stream(beside)
            with torch.cuda.graph(graph):
                captured.filled_step()
        else:
            graph.replay()
        eager.step(1 - 0.2 * step)
        for weight, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(weight, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("triton", [False, True])
def test_a_step_waits_for_nothing_from_the_gpu(triton):
    train = train_config(MIXTURE)
    model = Transformer(train.model, train.rates, seed=1, dtype=torch.float32).cuda()
    optimizer = make_optimizer(model, train, triton=triton)
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer.step(1.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.clip(1.0)
        optimizer.step(0.5)
        optimizer.fill(0.25)
        optimizer.filled_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_triton_trains_to_the_losses_that_it_replaces(tmp_path):
    found, expected = (
        trained(tmp_path / str(triton), train_config(MIXTURE), "cuda", triton=triton) for triton in (True, False)
    )
    assert found.losses[:10] == pytest.approx(expected.losses[:10], abs=1e-4)
    assert found.outcome["loss"] == pytest.approx(expected.outcome["loss"], abs=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(5, 16, 40), (5, 40, 16), (3, 7, 64, 256), (2, 64, 1024), (1, 1, 100)], ids=str)
def test_tritons_newton_schulz_errs_no_more_than_the_reference(shape, dtype):
    generator = torch.Generator("cuda").manual_seed(0)
    u = torch.randn(*shape, device="cuda", generator=generator)
    exact = reference.newton_schulz(u.double(), 5, torch.float64)
    ours, theirs = (
        (function(u, 5, dtype).double() - exact).abs().max().item()
        for function in (newton_schulz_triton, reference.newton_schulz)
    )
    assert ours < max(3 * theirs, 5e-6)


@pytest.mark.parametrize(
    ("shape", "joint"),
    [
        ((3, 16, 24), False),
        ((2, 512, 300), False),
        ((1, 33, 7), False),
        ((2, 5, 64, 128), False),
        ((2, 5, 64, 128), True),
    ],
    ids=str,
)
def test_tritons_step_on_the_sphere_is_the_references(shape, joint):
    generator = torch.Generator("cuda").manual_seed(0)
    weights, direction = (torch.randn(*shape, device="cuda", generator=generator) for _ in range(2))
    norm = reference.joint_radius if joint else reference.matrix_radius
    radius, rate = norm(weights), torch.tensor(0.1, device="cuda")
    exact = reference.sphere_step(weights.double(), direction.double(), 0.1, radius.double(), norm)
    moved = [weight.clone() for weight in weights]
    sphere_step_triton(moved, direction, rate, radius)
    torch.testing.assert_close(torch.stack(moved).double(), exact, rtol=0, atol=1e-6 * weights.abs().max().item())
