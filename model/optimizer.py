"""The update rules of training: MuonH and AdamH on the sphere, AdamW, and the plain Muon and AdamW baselines.

| role                    | `muonh` | `muon` | `adamw` |
|-------------------------|---------|--------|---------|
| hidden, expert, router  | muonh   | muon   | adamw   |
| head                    | adamh   | adamw  | adamw   |
| embedding, vector       | adamw   | adamw  | adamw   |

With rate η (the role's peak times the schedule's multiplier m), gradient G and, per matrix, radius R = ‖W₀‖_F:

    momentum  M ← μM + G,  U = μM + G (Nesterov) or M,  O = NewtonSchulz(U)
    adam      A = m̂ / (√v̂ + ε), bias-corrected
    muonh     W ← W̃ · R/‖W̃‖  with  W̃ = W − η·R·O/‖O‖         (HyperP eq. 2, arXiv 2603.28743)
    adamh     the same with A for O
    muon      W ← (1 − mλ)·W − η·√(out/in)·O                    (HyperP §4.5)
    adamw     W ← (1 − mλ)·W − η·A

λ is `Rates.weight_decay`, what one step at the peak rate removes, independent of the rate; it acts on hidden, expert
and router matrices of the two baselines only. Experts are matrices of their own, each on its own sphere.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kernels.primitives import matrix_radius, newton_schulz, sphere_step
from model.config import OptimizerConfig, Rates, Role, TrainConfig
from model.parameters import stacks

Rule = Literal["muonh", "muon", "adamh", "adamw"]

MATRICES: tuple[Role, ...] = ("hidden", "expert", "router")
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parameters of one shape that one rule moves together."""

    names: tuple[str, ...]
    rule: Rule
    rate: float
    """Peak learning rate."""
    decay: float
    """Fraction of the weight that one step at the peak rate removes."""


def rule(optimizer: OptimizerConfig, role: Role) -> Rule:
    """The update rule of a role: the table at the top of this module."""
    if role in MATRICES:
        return optimizer.name
    return "adamh" if role == "head" and optimizer.name == "muonh" else "adamw"


def groups(train: TrainConfig) -> tuple[Group, ...]:
    """Every parameter of the model in exactly one group, with its rule, rate and decay."""
    return tuple(
        Group(
            names=tuple(p.name for p in stack),
            rule=rule(train.optimizer, stack[0].role),
            rate=_rate(train.rates, stack[0].role),
            decay=train.rates.weight_decay if decays(train.optimizer, stack[0].role) else 0.0,
        )
        for stack in stacks(train.model)
    )


def decays(optimizer: OptimizerConfig, role: Role) -> bool:
    """Whether weight decay acts on a role: on the matrices of the baselines, and on no sphere (HyperP theorem 1)."""
    return role in MATRICES and optimizer.name != "muonh"


def _rate(rates: Rates, role: Role) -> float:
    if role in MATRICES:
        return rates.hidden
    return {"head": rates.head, "embedding": rates.embedding, "vector": rates.vector}[role]


class Optimizer:
    """Moves the parameters of one model; it waits for no result on the host.

    State is kept and saved in float32 (float64 where the weights are): momentum or moments per parameter, the radius of
    every matrix on a sphere, and the number of steps taken.
    """

    def __init__(self, weights: Mapping[str, Tensor], train: TrainConfig) -> None:
        self.optimizer = train.optimizer
        self.groups = groups(train)
        self.weights = [tuple[Tensor, ...](weights[name] for name in group.names) for group in self.groups]
        self.state = [_start(group, some) for group, some in zip(self.groups, self.weights, strict=True)]
        self.steps = 0

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for weight in self._all():
            weight.grad = None

    def clip(self, max_norm: float) -> Tensor:
        """Scale all gradients so that their joint norm is at most `max_norm` (0: leave them); the norm before, 0-d."""
        gradients = [weight.grad for weight in self._all() if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if max_norm > 0:
            nn.utils.clip_grads_with_norm_(self._all(), max_norm, norm)
        return norm

    @torch.no_grad()
    def step(self, multiplier: float) -> None:
        """Move every parameter against its gradient at `multiplier` times its peak rate.

        A parameter without a gradient counts as one whose gradient is zero.
        """
        self.steps += 1
        for group, some, state in zip(self.groups, self.weights, self.state, strict=True):
            weight = torch.stack(some)
            gradient = torch.stack([torch.zeros_like(w) if w.grad is None else w.grad for w in some])
            moved = self._moved(group, weight, gradient, state, multiplier)
            torch._foreach_copy_(some, moved.unbind())

    def _moved(
        self, group: Group, weight: Tensor, gradient: Tensor, state: Mapping[str, Tensor], multiplier: float
    ) -> Tensor:
        rate = multiplier * group.rate
        if group.rule in ("muonh", "muon"):
            direction = orthogonal_direction(self.optimizer, gradient, state["momentum"])
        else:
            direction = adam_direction(self.optimizer, gradient, state["mean"], state["square"], self.steps)
        if group.rule in ("muonh", "adamh"):
            return sphere_step(weight, direction, rate, state["radius"])
        if group.rule == "muon":
            rate *= math.sqrt(weight.shape[-2] / weight.shape[-1])
        return torch.add(weight * (1 - multiplier * group.decay), direction, alpha=-rate)

    def state_dict(self) -> dict[str, Any]:
        """`steps`, and the tensors of each parameter under its name: independent of how parameters are grouped."""
        tensors = {
            name: {key: stack[i].clone() for key, stack in state.items()}
            for group, state in zip(self.groups, self.state, strict=True)
            for i, name in enumerate(group.names)
        }
        return {"steps": self.steps, "parameters": tensors}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue, bit for bit, from what `state_dict` gave.

        Raises:
            KeyError: The state belongs to another model or update rule.
        """
        for group, state in zip(self.groups, self.state, strict=True):
            for i, name in enumerate(group.names):
                for key, stack in state.items():
                    stack[i].copy_(saved["parameters"][name][key])
        self.steps = saved["steps"]

    def _all(self) -> list[Tensor]:
        return [weight for some in self.weights for weight in some]


def make_optimizer(model: nn.Module, train: TrainConfig) -> Optimizer:
    """The optimiser of a model of `train.model`, already on its device; radii are those of its present weights."""
    return Optimizer(dict(model.named_parameters()), train)


@torch.no_grad()
def _start(group: Group, weights: tuple[Tensor, ...]) -> dict[str, Tensor]:
    weight = torch.stack(weights)
    state = (
        {"momentum": torch.zeros_like(weight)}
        if group.rule in ("muonh", "muon")
        else {"mean": torch.zeros_like(weight), "square": torch.zeros_like(weight)}
    )
    return {**state, "radius": matrix_radius(weight)} if group.rule in ("muonh", "adamh") else state


def orthogonal_direction(optimizer: OptimizerConfig, gradient: Tensor, momentum: Tensor) -> Tensor:
    """Muon's direction of matrices (…, out, in); `momentum` is updated in place."""
    momentum.mul_(optimizer.momentum).add_(gradient)
    update = torch.add(gradient, momentum, alpha=optimizer.momentum) if optimizer.nesterov else momentum
    return newton_schulz(update, optimizer.ns_steps, DTYPES[optimizer.ns_dtype])


def adam_direction(optimizer: OptimizerConfig, gradient: Tensor, mean: Tensor, square: Tensor, steps: int) -> Tensor:
    """Adam's direction after `steps` steps, counted from 1; both moments are updated in place."""
    mean.lerp_(gradient, 1 - optimizer.beta1)
    square.mul_(optimizer.beta2).addcmul_(gradient, gradient, value=1 - optimizer.beta2)
    scale = math.sqrt(1 - optimizer.beta2**steps)
    return mean / ((square.sqrt() / scale + optimizer.eps) * (1 - optimizer.beta1**steps))
