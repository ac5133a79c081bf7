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
and router matrices of the two baselines, and on scale vectors where `model.vectors` asks for it. Experts are matrices
of their own, each on its own sphere (`expert_sphere=layer`: those of a layer together on one).

Weights may be sharded (`model.sharding`): norms are those of whole matrices, however they are cut. Or they are those of
a stack of members, each with rates, norms and clipping of its own.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kernels.primitives import joint_radius, matrix_radius, newton_schulz, sphere_step_
from kernels.triton.found import lacking as lacking_triton
from kernels.triton.newton_schulz import newton_schulz as newton_schulz_triton
from kernels.triton.sphere_step import sphere_step_ as sphere_step_triton
from kernels.triton.sphere_step import takes as takes_sphere_step_triton
from model.config import OptimizerConfig, Rates, Role, TrainConfig
from model.distributed import add_over_ranks
from model.parameters import Parameter, stacks
from model.rounds import Orthogonalise, Round, Stack, plan_rounds
from model.sharding import ALONE, Layout, local

Rule = Literal["muonh", "muon", "adamh", "adamw"]

MATRICES: tuple[Role, ...] = ("hidden", "expert", "router")
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
CLIP_MARGIN = 1e-6
"""Added to the norm before dividing by it, as torch's `clip_grad_norm_` does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNumbers:
    """What differs from one step to the next: numbers, or 0-d tensors that a captured step reads."""

    multiplier: float | Tensor
    """Of every peak rate and decay."""
    mean_bias: float | Tensor
    """1 − β₁ᵗ after step t, counted from 1."""
    square_bias: float | Tensor
    """√(1 − β₂ᵗ)."""


def step_numbers(optimizer: OptimizerConfig, multiplier: float, steps: int) -> StepNumbers:
    """Of the step that makes it `steps`."""
    return StepNumbers(
        multiplier=multiplier,
        mean_bias=1 - optimizer.beta1**steps,
        square_bias=math.sqrt(1 - optimizer.beta2**steps),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parameters of one shape that one rule moves together."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    """Of each parameter, whole."""
    rule: Rule
    rate: float
    """Peak learning rate."""
    decay: float
    """Fraction of the weight that one step at the peak rate removes."""
    joint: bool = False
    """Whether the experts of each parameter share one sphere."""

    @property
    def orthogonal(self) -> bool:
        """Whether its directions come from Newton–Schulz."""
        return self.rule in ("muonh", "muon")

    @property
    def on_sphere(self) -> bool:
        """Whether every matrix keeps its norm."""
        return self.rule in ("muonh", "adamh")

    def radius(self, weight: Tensor) -> Tensor:
        """Norm of what lies on one sphere, of parameters stacked like `weight`."""
        return joint_radius(weight) if self.joint else matrix_radius(weight)

    @property
    def moments(self) -> tuple[str, ...]:
        """The keys of its state, but the radius."""
        return ("momentum",) if self.orthogonal else ("mean", "square")

    @property
    def stack(self) -> Stack:
        return Stack(count=len(self.names), shape=self.shape)


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
            shape=stack[0].shape,
            rule=rule(train.optimizer, stack[0].role),
            rate=_rate(train.rates, stack[0].role),
            decay=train.rates.weight_decay * decay_share(train, stack[0]),
            joint=share_sphere(train.optimizer, stack[0].role),
        )
        for stack in stacks(train.model)
    )


def decay_share(train: TrainConfig, parameter: Parameter) -> float:
    """How much of the weight decay acts on a parameter.

    On the matrices of the baselines all of it, and on no sphere (HyperP theorem 1); on scale vectors what their class
    asks for (arXiv 2605.26895), whatever the optimiser.
    """
    if parameter.role in MATRICES:
        return float(train.optimizer.name != "muonh")
    if parameter.role != "vector":
        return 0.0
    vectors = train.model.vectors
    part = {"gain": True, "alpha": vectors.wd_alpha, "beta": vectors.wd_beta}
    by_class = vectors.wd_input if parameter.norm_class == "input" else vectors.wd_output
    return by_class if part[parameter.part or "gain"] else 0.0


def share_sphere(optimizer: OptimizerConfig, role: Role) -> bool:
    """Whether the matrices of a parameter of this role keep their joint norm only."""
    return role == "expert" and optimizer.name == "muonh" and optimizer.expert_sphere == "layer"


def _rate(rates: Rates, role: Role) -> float:
    if role in MATRICES:
        return rates.hidden
    return {"head": rates.head, "embedding": rates.embedding, "vector": rates.vector}[role]


class Optimizer:
    """Moves the parameters of one model; it waits for no result on the host.

    State is kept and saved in float32 (float64 where the weights are): momentum or moments per parameter, the radius of
    every matrix on a sphere, and the number of steps taken. Of a sharded parameter each rank holds its part of the
    state, except that it knows the radii of all matrices that are cut between ranks.

    Several ranks share out Newton–Schulz. A step then takes at most four collectives for each round of `model.rounds`,
    two that carry matrices and two that add up norms, and two for a head on its sphere; clipping takes one.

    Args:
        weights: By name; of a stack, the members are their first dimension.
        train: Of the run, or of each member of a stack: they differ in rates and weight decay only.
        layout: Of the model; a stack is whole on one rank.
        triton: Whether `kernels.triton` serves what it can (`Execution.triton`).

    Raises:
        ValueError: Triton is asked for and cannot serve the device.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        train: TrainConfig | Sequence[TrainConfig],
        layout: Layout,
        *,
        triton: bool = False,
    ) -> None:
        members = (train,) if isinstance(train, TrainConfig) else tuple(train)
        self.stacked = not isinstance(train, TrainConfig)
        self.optimizer = members[0].optimizer
        self.layout = layout
        self.groups = groups(members[0])
        self.weights = [tuple[Tensor, ...](weights[name] for name in group.names) for group in self.groups]
        self.scalars = self._scalars([groups(member) for member in members]) if self.stacked else []
        """Of a stack, the members' rates and decays of each group."""
        self.rounds = tuple(_rounds(self.groups, layout))
        self.state = self._start()
        self.steps = 0
        multiplier, mean_bias, square_bias = local(self.weights[0][0], layout).new_ones(3).unbind()
        self.filled = StepNumbers(multiplier=multiplier, mean_bias=mean_bias, square_bias=square_bias)
        """On the device, what `fill` wrote last."""
        self.triton = triton
        if triton and (why := lacking_triton(multiplier.device)):
            raise ValueError(f"{why}; set execution.triton=false")

    def _scalars(self, members: Sequence[tuple[Group, ...]]) -> list[tuple[Tensor, Tensor]]:
        found = []
        for some, same in zip(self.weights, zip(*members, strict=True), strict=True):
            shape = (-1, *[1] * (some[0].dim() - 1))
            rates, decays = (
                torch.tensor(values, dtype=torch.float64, device=some[0].device).view(shape)
                for values in ([group.rate for group in same], [group.decay for group in same])
            )
            found.append((rates, decays))
        return found

    @torch.no_grad()
    def _start(self) -> list[dict[str, Tensor]]:
        """Moments of zero, and the radii of the present weights."""
        radii = {i: group.radius(torch.stack(self._parts(i))) for i, group in enumerate(self.groups) if group.on_sphere}
        cut = [i for i in radii if self._cut(i)]
        radii.update(zip(cut, self._over_shards([radii[i] for i in cut]), strict=True))
        return [
            {key: torch.zeros_like(torch.stack(self._parts(i))) for key in group.moments}
            | ({"radius": radii[i]} if i in radii else {})
            for i, group in enumerate(self.groups)
        ]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for weight in self._all():
            weight.grad = None

    @torch.no_grad()
    def clip(self, max_norm: float) -> Tensor:
        """Scale all gradients so that their joint norm is at most `max_norm` (0: leave them); the norm before, 0-d.

        Of a stack, one norm for each member, shape (R,).

        Raises:
            PeerLost: Another rank is gone.
        """
        gradients = [local(weight.grad, self.layout) for weight in self._all() if weight.grad is not None]
        if self.stacked:
            return self._clip_members(gradients, max_norm)
        norm = nn.utils.get_total_norm(gradients)
        if self.layout.shards > 1:
            (norm,) = self._over_shards([norm])
        if max_norm > 0 and gradients:
            torch._foreach_mul_(gradients, (max_norm / (norm + CLIP_MARGIN)).clamp(max=1.0))
        return norm

    def _clip_members(self, gradients: Sequence[Tensor], max_norm: float) -> Tensor:
        norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
        norm: Tensor = torch.linalg.vector_norm(norms, dim=0)
        if max_norm > 0:
            scale = (max_norm / (norm + CLIP_MARGIN)).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))
        return norm

    @torch.no_grad()
    def step(self, multiplier: float, *, measured: bool = False) -> dict[str, Tensor]:
        """Move every parameter against its gradient at `multiplier` times its peak rate.

        A parameter without a gradient counts as one whose gradient is zero.

        Returns:
            Where it is `measured`, the squared length of what was added to this rank's part of each parameter, 0-d in
            float64 (one for each member of a stack), by name; else nothing.

        Raises:
            PeerLost: Another rank is gone.
        """
        self.steps += 1
        return self._step(step_numbers(self.optimizer, multiplier, self.steps), measured=measured)

    def fill(self, multiplier: float) -> None:
        """Write on the device what the next `filled_step` is to take, without waiting for those before it."""
        self.steps += 1
        now = step_numbers(self.optimizer, multiplier, self.steps)
        for name in StepNumbers.__slots__:
            getattr(self.filled, name).fill_(getattr(now, name))  # its value travels with the launch

    @torch.no_grad()
    def filled_step(self) -> None:
        """What `step` does, up to rounding, with the numbers of `fill`: it can be captured as a CUDA graph.

        Capture it once after a step of its own, and before every replay call `fill`. Every replay reads the gradients
        where they were at capture, so they are to be set to zero, not forgotten; after `keep`, capture anew.

        Raises:
            ValueError: There are other ranks, whose exchanges no graph holds.
        """
        if self.layout.world.size > 1:
            raise ValueError(f"a step is captured on one rank, and there are {self.layout.world.size}; use step")
        self._step(self.filled, measured=False)

    def _step(self, now: StepNumbers, *, measured: bool) -> dict[str, Tensor]:
        squares: dict[str, Tensor] = {}
        for some, directions in self._directions(now):
            cut = {i: direction for i, direction in zip(some, directions, strict=True) if self._cut(i)}
            for i, direction in zip(some, directions, strict=True):
                if i in cut:
                    continue
                if self._moves_in_place(i):
                    old = torch.stack(self._parts(i)) if measured else None
                    self._move_in_place(i, direction, now.multiplier)
                    if old is not None:
                        squares |= self._squares(i, old, torch.stack(self._parts(i)))
                    continue
                moved = self._moved(i, direction, now.multiplier)
                if measured:
                    squares |= self._squares(i, torch.stack(self._parts(i)), moved)
                torch._foreach_copy_(self._parts(i), moved.unbind())
            if cut:
                before = {i: torch.stack(self._parts(i)) for i in cut} if measured else {}
                self._move_cut(cut, now.multiplier)
                for i, weight in before.items():
                    squares |= self._squares(i, weight, torch.stack(self._parts(i)))
        return squares

    def _directions(self, now: StepNumbers) -> Iterator[tuple[tuple[int, ...], list[Tensor]]]:
        """The directions of all groups, round by round; what several ranks share travels while the one before is made.

        All ranks begin and end their rounds in the same order.
        """
        begun: deque[tuple[tuple[int, ...], Callable[[Orthogonalise], list[Tensor]]]] = deque()
        ahead = int(self.layout.world.size > 1)  # else nothing travels: the memory of each round is free for the next
        for some, shared in self.rounds:
            updates = [self._update(i, now) for i in some]
            begun.append((some, shared.begin(updates) if shared else _given(updates)))
            del updates
            while len(begun) > ahead:
                of, directions = begun.popleft()
                yield of, directions(self._orthogonal)
        for of, directions in begun:
            yield of, directions(self._orthogonal)

    def _squares(self, i: int, before: Tensor, after: Tensor) -> dict[str, Tensor]:
        lengths = (after - before).double().flatten(1 + self.stacked).square().sum(dim=-1)
        return dict(zip(self.groups[i].names, lengths.unbind(), strict=True))

    def _update(self, i: int, now: StepNumbers) -> Tensor:
        """Adam's direction of a group, or what Newton–Schulz makes a direction of; moments move on."""
        layout, weights = self.layout, self.weights[i]
        gradient = torch.stack([local(torch.zeros_like(w) if w.grad is None else w.grad, layout) for w in weights])
        state = self.state[i]
        if self.groups[i].orthogonal:
            return momentum_update(self.optimizer, gradient, state["momentum"])
        return adam_direction(self.optimizer, gradient, state["mean"], state["square"], now)

    def _orthogonal(self, update: Tensor) -> Tensor:
        function = newton_schulz_triton if self.triton else newton_schulz
        return function(update, self.optimizer.ns_steps, DTYPES[self.optimizer.ns_dtype])

    def _moved(self, i: int, direction: Tensor, multiplier: float | Tensor) -> Tensor:
        """The parameters of a group after the step; `direction` is used up."""
        group, weight = self.groups[i], torch.stack(self._parts(i))
        rate: float | Tensor = multiplier * group.rate
        decay: float | Tensor = multiplier * group.decay
        if self.stacked:
            rate, decay = ((multiplier * each).to(weight.dtype) for each in self.scalars[i])
        if group.on_sphere:
            return sphere_step_(weight, direction, rate, self.state[i]["radius"], norm=group.radius)
        if group.rule == "muon":
            rate = rate * math.sqrt(group.shape[-2] / group.shape[-1])
        if isinstance(rate, Tensor):
            return weight.mul_(1 - decay).sub_(direction.mul_(rate))
        return weight.mul_(1 - decay).add_(direction, alpha=-rate)

    def _moves_in_place(self, i: int) -> bool:
        return self.triton and self.groups[i].on_sphere and takes_sphere_step_triton(self._parts(i))

    def _move_in_place(self, i: int, direction: Tensor, multiplier: float | Tensor) -> None:
        rate: float | Tensor = multiplier * (self.scalars[i][0] if self.stacked else self.groups[i].rate)
        sphere_step_triton(self._parts(i), direction, rate, self.state[i]["radius"])

    def _move_cut(self, directions: Mapping[int, Tensor], multiplier: float | Tensor) -> None:
        """`sphere_step` of groups whose matrices are cut between ranks: norms come from all of them at once."""
        lengths = self._over_shards([self.groups[i].radius(direction) for i, direction in directions.items()])
        for (i, direction), length in zip(directions.items(), lengths, strict=True):
            step = direction * (multiplier * self.groups[i].rate * self.state[i]["radius"] / length)
            torch._foreach_sub_(self._parts(i), step.unbind())
        norms = self._over_shards([self.groups[i].radius(torch.stack(self._parts(i))) for i in directions])
        for i, norm in zip(directions, norms, strict=True):
            torch._foreach_mul_(self._parts(i), (self.state[i]["radius"] / norm).unbind())

    def _cut(self, i: int) -> bool:
        """Whether a group lies on spheres and no rank holds all of what is on one."""
        group = self.groups[i]
        return group.on_sphere and (group.stack.cut(self.layout) or (group.joint and self.layout.shards > 1))

    def _over_shards(self, norms: Sequence[Tensor]) -> list[Tensor]:
        """The norm of what the ranks of a copy hold together, for each norm of what this rank holds.

        One collective among all ranks, not one in each copy: copies that differ in a bit would drift apart.
        """
        if not norms:
            return []
        squares = torch.cat([norm.flatten() for norm in norms]).double().square()
        add_over_ranks(squares, self.layout.world)
        whole = (squares / self.layout.copies).sqrt().to(norms[0].dtype)
        parts = torch.split(whole, [norm.numel() for norm in norms])
        return [part.view_as(norm) for part, norm in zip(parts, norms, strict=True)]

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """What this rank holds of the state: parameter, key (such as `momentum`) and tensor, sharing its memory."""
        for group, state in zip(self.groups, self.state, strict=True):
            for i, name in enumerate(group.names):
                yield from ((name, key, stack[i]) for key, stack in state.items())

    def state_dict(self) -> dict[str, Any]:
        """`steps`, and copies of this rank's tensors of each parameter: independent of how parameters are grouped."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, key, tensor in self.tensors():
            found.setdefault(name, {})[key] = tensor.clone()
        return {"steps": self.steps, "parameters": found}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue, bit for bit, from what `state_dict` gave on this rank.

        Raises:
            KeyError: The state belongs to another model or update rule.
        """
        for name, key, tensor in self.tensors():
            tensor.copy_(saved["parameters"][name][key])
        self.steps = saved["steps"]

    @torch.no_grad()
    def keep(self, members: Sequence[int]) -> None:
        """Go on with these members of the stack alone, by their present places."""
        kept = torch.tensor(members, device=self.weights[0][0].device)
        for weight in self._all():
            weight.data, weight.grad = weight.data.index_select(0, kept), None
        self.state = [{key: each.index_select(1, kept) for key, each in state.items()} for state in self.state]
        self.scalars = [(rate.index_select(0, kept), decay.index_select(0, kept)) for rate, decay in self.scalars]

    def _parts(self, i: int) -> list[Tensor]:
        """What this rank holds of a group's parameters."""
        return [local(weight, self.layout) for weight in self.weights[i]]

    def _all(self) -> list[Tensor]:
        return [weight for some in self.weights for weight in some]


def make_optimizer(
    model: nn.Module,
    train: TrainConfig | Sequence[TrainConfig],
    layout: Layout = ALONE,
    *,
    triton: bool = False,
) -> Optimizer:
    """The optimiser of a model of `train.model`, laid out already; radii are those of its present weights.

    Of a stack, `train` is that of each member.

    Every rank must call it.
    """
    return Optimizer(dict(model.named_parameters()), train, layout, triton=triton)


def cut_like_its_parameter(key: str, weight: Tensor, optimizer: OptimizerConfig) -> bool:
    """Whether ranks hold parts of this tensor of a parameter's state; a radius that ranks share each knows whole."""
    return key != "radius" or (weight.dim() > 2 and optimizer.expert_sphere == "expert")


def _given(directions: list[Tensor]) -> Callable[[Orthogonalise], list[Tensor]]:
    return lambda _: directions


def _rounds(groups: Sequence[Group], layout: Layout) -> Iterator[tuple[tuple[int, ...], Round | None]]:
    """The groups that move together, and how their matrices travel if they do."""
    orthogonal = [i for i, group in enumerate(groups) if group.orthogonal]
    for some in plan_rounds([groups[i].stack for i in orthogonal], layout):
        yield tuple(orthogonal[k] for k in some.stacks), some
    yield from (((i,), None) for i, group in enumerate(groups) if not group.orthogonal)


def momentum_update(optimizer: OptimizerConfig, gradient: Tensor, momentum: Tensor) -> Tensor:
    """What Muon orthogonalises, with Nesterov in the memory of `gradient`; `momentum` is updated in place."""
    momentum.mul_(optimizer.momentum).add_(gradient)
    return gradient.add_(momentum, alpha=optimizer.momentum) if optimizer.nesterov else momentum


def adam_direction(
    optimizer: OptimizerConfig, gradient: Tensor, mean: Tensor, square: Tensor, now: StepNumbers
) -> Tensor:
    """Adam's direction; both moments are updated in place."""
    mean.lerp_(gradient, 1 - optimizer.beta1)
    square.mul_(optimizer.beta2).addcmul_(gradient, gradient, value=1 - optimizer.beta2)
    scale = square.sqrt().div_(now.square_bias).add_(optimizer.eps).mul_(now.mean_bias)
    return torch.div(mean, scale, out=scale)
