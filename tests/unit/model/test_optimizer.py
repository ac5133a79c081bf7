import math
from dataclasses import replace

import pytest
import ranks
import torch
from interpreted import after_steps, interpreted
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from kernels import gram
from kernels.primitives import cross_entropy
from kernels.reference import NEWTON_SCHULZ, newton_schulz
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
from model.optimizer import groups, make_optimizer, rule
from model.parameters import parameters
from model.sharding import ALONE
from model.transformer import Transformer

SMALL = {"width": 16, "depth": 2, "head_size": 8, "kv_heads": 2, "vocab": 32, "context": 8}
MIXTURE = {"mlp": "moe", "top_k": 4, "sparsity": 2}
RATES = Rates(hidden=0.03, head=0.02, embedding=0.01, vector=0.005, residual_multiplier=0.5)
NAMES = ["muonh", "muon", "adamw"]


def config(name="muonh", rates=RATES, optimizer=(), **model):
    return TrainConfig(
        model=ModelConfig(**{**SMALL, **model}),
        optimizer=OptimizerConfig(name=name, **{"ns_dtype": "float64", **dict(optimizer)}),
        schedule=ScheduleConfig(),
        data=DataConfig(),
        evaluation=EvaluationConfig(),
        seed=Seeds(),
        rates=rates,
        tokens=10_000,
        batch_tokens=16,
    )


def make(train, dtype=torch.float64):
    model = Transformer(train.model, train.rates, seed=1, dtype=dtype)
    return model, make_optimizer(model, train)


def give_gradients(model, step):
    """Gradients that depend on the step only."""
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)


def snapshot(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def steps(model, optimizer, start, stop):
    for step in range(start, stop):
        give_gradients(model, step)
        optimizer.step(1 - 0.05 * step)


class OneMatrix:
    """The rules as the paper states them, for one parameter at a time (arXiv 2603.28743, eq. 2 and §4.5)."""

    def __init__(self, weight, rule, rate, decay):
        self.weight, self.rule, self.rate, self.decay = weight, rule, rate, decay
        self.radius = weight.norm()
        self.momentum = torch.zeros_like(weight)
        self.square = torch.zeros_like(weight)
        self.step_number = 0

    def step(self, gradient, multiplier):
        self.step_number += 1
        rate = multiplier * self.rate
        if self.rule in ("muonh", "muon"):
            self.momentum = 0.95 * self.momentum + gradient
            direction = self.orthogonal(0.95 * self.momentum + gradient)
        else:
            self.momentum = 0.9 * self.momentum + 0.1 * gradient
            self.square = 0.95 * self.square + 0.05 * gradient**2
            mean = self.momentum / (1 - 0.9**self.step_number)
            direction = mean / ((self.square / (1 - 0.95**self.step_number)).sqrt() + 1e-8)
        if self.rule in ("muonh", "adamh"):
            moved = self.weight - rate * direction * self.radius / direction.norm()
            self.weight = moved * self.radius / moved.norm()
        elif self.rule == "muon":
            fan_out, fan_in = self.weight.shape[-2:]
            self.weight = (1 - multiplier * self.decay) * self.weight - rate * math.sqrt(fan_out / fan_in) * direction
        else:
            self.weight = (1 - multiplier * self.decay) * self.weight - rate * direction

    @staticmethod
    def orthogonal(update):
        x = update / (torch.linalg.matrix_norm(update, keepdim=True) + 1e-8)
        for a, b, c in NEWTON_SCHULZ:
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", [{}, MIXTURE])
def test_every_parameter_is_in_exactly_one_group(name, model):
    train = config(name, **model)
    grouped = [parameter for group in groups(train) for parameter in group.names]
    assert sorted(grouped) == sorted(p.name for p in parameters(train.model))


def test_muonh_keeps_matrices_and_head_on_spheres_and_leaves_embedding_and_gains_to_adamw():
    optimizer = OptimizerConfig(name="muonh")
    rules = {role: rule(optimizer, role) for role in ("hidden", "expert", "router", "head", "embedding", "vector")}
    assert rules == {
        "hidden": "muonh",
        "expert": "muonh",
        "router": "muonh",
        "head": "adamh",
        "embedding": "adamw",
        "vector": "adamw",
    }


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_baselines_decay_their_matrices_only(name):
    rates = Rates(hidden=0.03, head=0.02, embedding=0.01, vector=0.005, weight_decay=0.1)
    role = {p.name: p.role for p in parameters(config(name, **MIXTURE).model)}
    for group in groups(config(name, rates=rates, **MIXTURE)):
        assert group.decay == (0.1 if role[group.names[0]] in ("hidden", "expert", "router") else 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", [{}, MIXTURE])
@pytest.mark.parametrize("sphere", ["expert", "layer"])
def test_five_steps_equal_the_rules_applied_to_one_matrix_at_a_time(name, model, sphere):
    rates = RATES if name == "muonh" else Rates(hidden=0.03, head=0.02, embedding=0.01, vector=0.005, weight_decay=0.1)
    train = config(name, rates=rates, optimizer={"expert_sphere": sphere}, **model)
    model, optimizer = make(train)
    group_of = {parameter: group for group in groups(train) for parameter in group.names}
    alone = {}
    for parameter, weight in snapshot(model).items():
        group = group_of[parameter]
        matrices = weight if each_its_own(weight, sphere) else weight[None]
        alone[parameter] = [OneMatrix(matrix, group.rule, group.rate, group.decay) for matrix in matrices]
    for step in range(5):
        give_gradients(model, step)
        multiplier = 1 - 0.1 * step
        for parameter, tensor in model.named_parameters():
            gradients = tensor.grad if each_its_own(tensor, sphere) else tensor.grad[None]
            for one, gradient in zip(alone[parameter], gradients, strict=True):
                one.step(gradient, multiplier)
        optimizer.step(multiplier)
    for parameter, tensor in snapshot(model).items():
        expected = torch.stack([one.weight for one in alone[parameter]]).reshape(tensor.shape)
        torch.testing.assert_close(tensor, expected, rtol=1e-9, atol=1e-12)


def each_its_own(weight, sphere):
    """Whether a parameter is several matrices to the optimiser: experts, unless they share a sphere."""
    return weight.dim() == 3 and sphere == "expert"


@pytest.mark.parametrize("nesterov", [True, False])
def test_without_nesterov_the_direction_is_the_momentum_itself(nesterov):
    train = config("muon", optimizer={"nesterov": nesterov})
    model, optimizer = make(train)
    name, before = "blocks.0.mlp.down", snapshot(model)["blocks.0.mlp.down"]
    give_gradients(model, 0)
    first = dict(model.named_parameters())[name].grad.clone()
    optimizer.step(0.0)
    give_gradients(model, 1)
    second = dict(model.named_parameters())[name].grad.clone()
    optimizer.step(1.0)
    momentum = 0.95 * first + second
    update = 0.95 * momentum + second if nesterov else momentum
    moved = before - 0.03 * math.sqrt(16 / 64) * OneMatrix.orthogonal(update)
    torch.testing.assert_close(dict(model.named_parameters())[name].detach(), moved)


@pytest.mark.parametrize("sphere", ["expert", "layer"])
def test_matrices_keep_their_norms_over_a_thousand_float32_steps(sphere):
    train = config(optimizer={"ns_dtype": "float32", "expert_sphere": sphere}, depth=1, **MIXTURE)
    model, optimizer = make(train, torch.float32)
    joint = [name for group in groups(train) if group.joint for name in group.names]
    on_sphere = [name for group in groups(train) if group.rule in ("muonh", "adamh") for name in group.names]
    start = {name: torch.linalg.matrix_norm(value) for name, value in snapshot(model).items() if name in on_sphere}
    for step in range(1000):
        give_gradients(model, step)
        optimizer.step(1.0)
    for name, value in snapshot(model).items():
        if name in joint:
            torch.testing.assert_close(torch.linalg.matrix_norm(value).norm(), start[name].norm(), rtol=1e-6, atol=0)
        elif name in on_sphere:
            torch.testing.assert_close(torch.linalg.matrix_norm(value), start[name], rtol=1e-6, atol=0)


def test_the_step_of_every_matrix_and_expert_is_the_rate_long():
    """The first one, with directions of its own: W̃ lies η·R from W, and back on the sphere it is the new weight."""
    train = config(optimizer={"nesterov": False}, **MIXTURE)
    model, optimizer = make(train)
    before = snapshot(model)
    give_gradients(model, 0)
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    optimizer.step(0.5)
    after = snapshot(model)
    seen = 0
    for group in groups(train):
        for name in group.names if group.rule == "muonh" else ():
            matrices = zip(*(v[name].view(-1, *v[name].shape[-2:]) for v in (before, after, gradients)), strict=True)
            for old, new, gradient in matrices:
                direction = newton_schulz(gradient, dtype=torch.float64)
                moved = old - 0.5 * group.rate * old.norm() * direction / direction.norm()
                assert ((moved - old).norm() / old.norm()).item() == pytest.approx(0.5 * 0.03, rel=1e-12)
                torch.testing.assert_close(new, moved * (old.norm() / moved.norm()), rtol=0, atol=1e-12)
                seen += 1
    assert seen == 2 * (5 + 1 + 2 * 7 + 2)  # of each block: attention, router, seven experts, the shared one


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_optimizer_continues_bit_for_bit(name):
    train = config(name, optimizer={"ns_dtype": "float32"}, **MIXTURE)
    model, optimizer = make(train, torch.float32)
    steps(model, optimizer, 0, 3)
    weights, state = {k: v.clone() for k, v in model.state_dict().items()}, optimizer.state_dict()
    steps(model, optimizer, 3, 6)

    resumed = Transformer(train.model, train.rates, seed=9)
    resumed.load_state_dict(weights)
    again = make_optimizer(resumed, train)
    again.load_state_dict(state)
    steps(resumed, again, 3, 6)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_saved_state_does_not_change_with_later_steps():
    model, optimizer = make(config())
    steps(model, optimizer, 0, 1)
    state = optimizer.state_dict()
    before = state["parameters"]["head"]["mean"].clone()
    steps(model, optimizer, 1, 2)
    assert torch.equal(state["parameters"]["head"]["mean"], before)


def test_a_state_of_another_update_rule_is_refused():
    _, optimizer = make(config("muonh"))
    _, other = make(config("adamw"))
    with pytest.raises(KeyError):
        optimizer.load_state_dict(other.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_multiplier_of_zero_moves_nothing(name):
    rates = RATES if name == "muonh" else Rates(hidden=0.03, head=0.02, embedding=0.01, vector=0.005, weight_decay=0.1)
    model, optimizer = make(config(name, rates=rates))
    before = snapshot(model)
    give_gradients(model, 0)
    optimizer.step(0.0)
    for key, value in snapshot(model).items():
        torch.testing.assert_close(value, before[key], rtol=1e-14, atol=0)


def test_clipping_scales_the_joint_norm_and_returns_the_norm_before():
    model, optimizer = make(config())
    give_gradients(model, 0)
    joint = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
    assert optimizer.clip(1.0).item() == pytest.approx(joint)
    assert optimizer.clip(0.0).item() == pytest.approx(1.0, rel=1e-5)


def test_clipping_leaves_small_gradients_and_zero_switches_it_off():
    model, optimizer = make(config())
    give_gradients(model, 0)
    before = model.head.grad.clone()
    optimizer.clip(1e6)
    optimizer.clip(0.0)
    assert torch.equal(model.head.grad, before)


def test_a_parameter_without_gradient_counts_as_one_with_gradient_zero():
    model, optimizer = make(config())
    optimizer.zero_grad()
    before = snapshot(model)
    optimizer.step(1.0)
    for key, value in snapshot(model).items():
        torch.testing.assert_close(value, before[key], rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", [{}, MIXTURE])
def test_neither_clipping_nor_a_step_waits_for_a_number_from_the_device(name, model):
    # Fake tensors have no values: reading one raises.
    with FakeTensorMode():
        model, optimizer = make(config(name, depth=1, **model))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.clip(1.0)
        optimizer.step(0.5)


def filled_steps(model, optimizer, start, stop):
    for step in range(start, stop):
        give_gradients(model, step)
        optimizer.fill(1 - 0.05 * step)
        optimizer.filled_step()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", [{}, MIXTURE])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=str)
def test_a_step_with_numbers_from_the_device_is_the_step(name, model, dtype, rtol):
    rates = RATES if name == "muonh" else Rates(hidden=0.03, head=0.02, embedding=0.01, vector=0.005, weight_decay=0.1)
    train = config(name, rates=rates, **model)
    (model, optimizer), (other, filled) = make(train, dtype), make(train, dtype)
    steps(model, optimizer, 0, 3)
    filled_steps(other, filled, 0, 3)
    assert filled.steps == 3
    for key, value in snapshot(model).items():
        torch.testing.assert_close(snapshot(other)[key], value, rtol=rtol, atol=rtol)


def test_a_step_with_numbers_from_the_device_moves_every_member_of_a_stack():
    train = [config(rates=replace(RATES, hidden=rate)) for rate in (0.03, 0.1)]
    models = [Transformer(train[0].model, RATES, seed=[1, 2], dtype=torch.float64) for _ in range(2)]
    optimizer, filled = (make_optimizer(model, train) for model in models)
    steps(models[0], optimizer, 0, 3)
    filled_steps(models[1], filled, 0, 3)
    for key, value in snapshot(models[0]).items():
        torch.testing.assert_close(snapshot(models[1])[key], value, rtol=1e-13, atol=1e-13)


class Operations(TorchDispatchMode):
    """Every operator that is called, with all of its arguments but the values of tensors."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        spread, _ = tree_flatten((args, kwargs or {}))
        known = [(tuple(a.shape), a.dtype, a.stride()) if isinstance(a, torch.Tensor) else a for a in spread]
        self.seen.append((str(func), known))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", [{}, MIXTURE])
def test_steps_with_numbers_from_the_device_differ_in_no_operator_and_no_number_of_the_host(name, model):
    """What a captured step does again at a replay, whatever the multiplier and the number of steps."""
    rates = RATES if name == "muonh" else Rates(hidden=0.03, head=0.02, embedding=0.01, vector=0.005, weight_decay=0.1)
    model, optimizer = make(config(name, rates=rates, **model))
    give_gradients(model, 0)
    found = []
    for multiplier in (1.0, 0.25):
        optimizer.fill(multiplier)
        with Operations() as operations:
            optimizer.filled_step()
        found.append(operations.seen)
    assert found[0] == found[1]
    assert not [name for name, _ in found[0] if "_local_scalar_dense" in name or "is_nonzero" in name]


def test_steps_with_numbers_from_the_host_do_differ():
    model, optimizer = make(config())
    give_gradients(model, 0)
    found = []
    for multiplier in (1.0, 0.25):
        with Operations() as operations:
            optimizer.step(multiplier)
        found.append(operations.seen)
    assert found[0] != found[1]


def test_a_step_with_numbers_from_the_device_is_that_of_one_rank():
    train = config()
    model = Transformer(train.model, train.rates, seed=1)
    two = replace(ALONE, world=replace(ALONE.world, size=2))
    with pytest.raises(ValueError, match="a step is captured on one rank, and there are 2"):
        make_optimizer(model, train, two).filled_step()


@pytest.mark.parametrize(("name", "hidden"), [("muonh", 0.1), ("muon", 0.05), ("adamw", 0.01)])
@pytest.mark.parametrize("model", [{}, MIXTURE])
def test_each_rule_lowers_the_loss_on_a_short_text(name, hidden, model):
    others = hidden if name == "muonh" else 0.01
    rates = Rates(hidden=hidden, head=others, embedding=others, vector=others)
    train = config(name, rates=rates, optimizer={"ns_dtype": "float32"}, **model)
    model, optimizer = make(train, torch.float32)
    text = torch.randint(32, (2, 9), generator=torch.Generator().manual_seed(0))
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        loss = cross_entropy(model(text[:, :-1]), text[:, 1:])
        loss.backward()
        optimizer.clip(1.0)
        optimizer.step(1 - step / 40)
        losses.append(loss.item())
    # A head on its sphere of radius 0.02·√(V·D) gives small logits at this width: only the final gain can raise them.
    assert losses[-1] < 0.8 * losses[0]


def test_training_on_the_gram_matrix_is_training_by_the_reference(tmp_path, monkeypatch):
    """The tolerances of the layouts: 1e-8 over a run in float64, 1e-5 over the first steps in float32."""
    for float64, steps, rel in ((True, 10, 1e-8), (False, 20, 1e-5)):
        train = ranks.config(ranks.DENSE, steps=steps, float64=float64)
        found = []
        for name, function in (("gram", gram.newton_schulz), ("reference", newton_schulz)):
            monkeypatch.setattr("model.optimizer.newton_schulz", function)
            case = ranks.Case(folder=tmp_path / f"{name}-{float64}", config=train, execution={})
            found.append(ranks.train_alone(case).losses)
        assert found[0] == pytest.approx(found[1], rel=rel)
        assert float64 or found[0] != found[1]


FLOAT32 = {"ns_dtype": "float32"}
TRITON_CASES = {
    "muonh": (config(optimizer=FLOAT32, depth=1), False),
    "mixture, numbers from the device": (config(optimizer=FLOAT32, depth=1, **MIXTURE), True),
    "a sphere per layer": (config(optimizer={**FLOAT32, "expert_sphere": "layer"}, depth=1, **MIXTURE), False),
    "muon": (config("muon", optimizer=FLOAT32, depth=1), False),
    "a stack": ([config(rates=replace(RATES, hidden=r), optimizer=FLOAT32, depth=1) for r in (0.03, 0.1)], True),
}
"""What trains, and whether its numbers come from the device."""


@pytest.fixture(scope="module")
def by_triton(tmp_path_factory):
    """The weights that Triton's programs make, of each case."""
    calls = [("interpreted", "after_steps", (train, True, filled)) for train, filled in TRITON_CASES.values()]
    results = interpreted(tmp_path_factory.mktemp("triton"), calls)
    return dict(zip(TRITON_CASES, (weights for _, weights in results), strict=True))


@pytest.mark.parametrize("case", TRITON_CASES)
def test_with_triton_a_step_is_the_step(by_triton, case):
    train, filled = TRITON_CASES[case]
    for name, expected in after_steps(train, False, filled).items():
        torch.testing.assert_close(by_triton[case][name], expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_triton_on_a_cpu_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr("model.optimizer.lacking_triton", lambda _: "Triton needs a GPU, and the device is cpu")
    train = config()
    model = Transformer(train.model, train.rates, seed=1)
    with pytest.raises(ValueError, match=r"^Triton needs a GPU, and the device is cpu; set execution.triton=false$"):
        make_optimizer(model, train, triton=True)
