"""The only table of a model's parameters; modules allocate from it, the optimiser and the counts read it; no torch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Literal

from model.config import ModelConfig, Role

NormClass = Literal["input", "output"]
"""Input-Norm: directly followed by a linear map. Output-Norm: not (QK-norm). Named in arXiv 2605.26895."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """How a parameter starts: U(−scale, scale), N(0, scale²), or `scale` everywhere."""

    kind: Literal["uniform", "normal", "constant"]
    scale: float

    @property
    def rms(self) -> float:
        """Expected root mean square of one element."""
        return self.scale / math.sqrt(3) if self.kind == "uniform" else self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One tensor of the model."""

    name: str
    """Its key in the model's `state_dict`."""
    shape: tuple[int, ...]
    """Matrices are (…, out, in); experts lead with their number."""
    role: Role
    norm_class: NormClass | None = None
    """Of norm gains only."""
    init: Init
    counted: bool = True
    """Whether the paper's N counts it (HyperP §4): norms, the headwise gate and the router are left out."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def radius(self) -> float:
        """Expected Frobenius norm at the start, of one matrix: rms · √(out · in)."""
        return self.init.rms * math.sqrt(math.prod(self.shape[-2:]))


STACK_ELEMENTS = 2**26
"""Parameters of equal role and shape are updated as one stack of at most so many elements, or of one parameter."""
ROUND_ELEMENTS = 2**28
"""Where ranks share out Newton–Schulz, so many elements of a rank (or one stack) are under way at once."""
EMBEDDING_INIT = Init(kind="normal", scale=1e-4)
GAIN_INIT = Init(kind="constant", scale=1.0)


def kaiming(fan_in: int) -> Init:
    """U(±1/√fan_in), Kaiming-uniform with a = √5: radius √(fan_out/3) (HyperP theorem 2, arXiv 2603.28743)."""
    return Init(kind="uniform", scale=1 / math.sqrt(fan_in))


@lru_cache(maxsize=4096)
def parameters(config: ModelConfig) -> tuple[Parameter, ...]:
    """Every parameter of the model, in the order of a forward pass.

    >>> [p.shape for p in parameters(ModelConfig(depth=1)) if p.name.endswith("attention.query")]
    [(2048, 1024)]
    """
    return tuple(_parameters(config))


@lru_cache(maxsize=4096)
def stacks(config: ModelConfig) -> tuple[tuple[Parameter, ...], ...]:
    """Every parameter once, those of equal role and shape together: what the optimiser moves in one go."""

    def kind(parameter: Parameter) -> tuple[Role, tuple[int, ...]]:
        return parameter.role, parameter.shape

    found: list[tuple[Parameter, ...]] = []
    for _, equal in groupby(sorted(parameters(config), key=kind), key=kind):
        same = tuple(equal)
        size = max(1, STACK_ELEMENTS // same[0].size)
        found.extend(same[i : i + size] for i in range(0, len(same), size))
    return tuple(found)


def _parameters(config: ModelConfig) -> Iterator[Parameter]:
    table = (config.vocab, config.width)
    yield Parameter(name="embedding", shape=table, role="embedding", init=EMBEDDING_INIT)
    for layer in range(config.depth):
        block = f"blocks.{layer}"
        yield _gain(f"{block}.attention_norm", config.width, "input")
        yield from _attention(f"{block}.attention", config)
        yield _gain(f"{block}.mlp_norm", config.width, "input")
        if config.mlp == "dense":
            yield from _swiglu(f"{block}.mlp", config.width, config.mlp_ratio * config.width)
        else:
            yield from _mixture(f"{block}.mlp", config)
    yield _gain("final_norm", config.width, "input")
    yield Parameter(name="head", shape=table, role="head", init=Init(kind="normal", scale=config.head_std))


def _attention(prefix: str, config: ModelConfig) -> Iterator[Parameter]:
    inner = config.query_heads * config.head_size
    shared = config.kv_heads * config.head_size
    yield _matrix(f"{prefix}.query", inner, config.width)
    yield _matrix(f"{prefix}.key", shared, config.width)
    yield _matrix(f"{prefix}.value", shared, config.width)
    if config.headwise_gate:
        yield _matrix(f"{prefix}.gate", config.query_heads, config.width, counted=False)
    if config.qk_norm:
        yield _gain(f"{prefix}.query_norm", config.head_size, "output")
        yield _gain(f"{prefix}.key_norm", config.head_size, "output")
    yield _matrix(f"{prefix}.output", config.width, inner)


def _swiglu(prefix: str, width: int, hidden: int) -> Iterator[Parameter]:
    yield _matrix(f"{prefix}.gate_up", 2 * hidden, width)
    yield _matrix(f"{prefix}.down", width, hidden)


def _mixture(prefix: str, config: ModelConfig) -> Iterator[Parameter]:
    hidden = config.mlp_ratio * config.width // config.top_k
    routed = config.routed_experts
    yield _matrix(f"{prefix}.router", routed, config.width, role="router", counted=False)
    yield _matrix(f"{prefix}.experts_gate_up", 2 * hidden, config.width, role="expert", experts=routed)
    yield _matrix(f"{prefix}.experts_down", config.width, hidden, role="expert", experts=routed)
    if config.shared_expert:
        yield from _swiglu(f"{prefix}.shared", config.width, hidden)


def _matrix(
    name: str, fan_out: int, fan_in: int, *, role: Role = "hidden", experts: int = 0, counted: bool = True
) -> Parameter:
    shape = (experts, fan_out, fan_in) if experts else (fan_out, fan_in)
    return Parameter(name=name, shape=shape, role=role, init=kaiming(fan_in), counted=counted)


def _gain(name: str, width: int, norm_class: NormClass) -> Parameter:
    return Parameter(
        name=f"{name}.gain", shape=(width,), role="vector", norm_class=norm_class, init=GAIN_INIT, counted=False
    )
