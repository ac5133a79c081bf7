"""The only table of a model's parameters; modules allocate from it, the optimiser and the counts read it; no torch."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Literal

from model.config import ModelConfig, Role

NormClass = Literal["input", "output"]
"""Input-Norm: directly followed by a linear map. Output-Norm: not (QK-norm). Named in arXiv 2605.26895."""
Part = Literal["gain", "alpha", "beta"]
"""Of a scale vector: γ itself, or the direction α and magnitude β of which it is made."""


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
    """Of scale vectors only."""
    part: Part | None = None
    """Of scale vectors only."""
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
ONES = Init(kind="constant", scale=1.0)
ZEROS = Init(kind="constant", scale=0.0)
PARTS: Mapping[str, Mapping[Part, Init]] = {
    "plain": {"gain": ONES},
    "or": {"alpha": ONES, "beta": ONES},
    "er": {"alpha": ZEROS, "beta": ZEROS},
}
"""What a scale vector consists of by its parametrisation, each started so that γ = 1."""


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
    """Every parameter once, those of equal role, class and shape together: what the optimiser moves in one go."""

    def kind(parameter: Parameter) -> tuple[Role, str, str, tuple[int, ...]]:
        return parameter.role, parameter.norm_class or "", parameter.part or "", parameter.shape

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
        yield from _pre_norm(f"{block}.attention_norm", config)
        yield from _attention(f"{block}.attention", config)
        yield from _post_norm(f"{block}.attention_post_norm", config)
        yield from _pre_norm(f"{block}.mlp_norm", config)
        if config.mlp == "dense":
            yield from _swiglu(f"{block}.mlp", config, config.mlp_ratio * config.width)
        else:
            yield from _mixture(f"{block}.mlp", config)
        yield from _post_norm(f"{block}.mlp_post_norm", config)
    if config.vectors.enabled or config.vectors.keep_final:
        yield from _vector("final_norm", (config.width,), config.vectors.final_class, config)
    yield Parameter(name="head", shape=table, role="head", init=Init(kind="normal", scale=config.head_std))


def _attention(prefix: str, config: ModelConfig) -> Iterator[Parameter]:
    inner = config.query_heads * config.head_size
    shared = config.kv_heads * config.head_size
    head = (config.head_size,)
    per_head = config.vectors.axis == "head"
    yield _matrix(f"{prefix}.query", inner, config.width)
    yield _matrix(f"{prefix}.key", shared, config.width)
    yield _matrix(f"{prefix}.value", shared, config.width)
    yield from _branch(f"{prefix}.query", head if per_head else (inner,), config)
    yield from _branch(f"{prefix}.key", head if per_head else (shared,), config)
    yield from _branch(f"{prefix}.value", (shared,), config)
    if config.headwise_gate:
        yield _matrix(f"{prefix}.gate", config.query_heads, config.width, counted=False)
        yield from _inner(f"{prefix}.gate", config)
    if config.vectors.enabled and config.has_qk_norm:
        yield from _vector(f"{prefix}.query_norm", head, "output", config)
        yield from _vector(f"{prefix}.key_norm", head, "output", config)
    yield _matrix(f"{prefix}.output", config.width, inner)


def _swiglu(prefix: str, config: ModelConfig, hidden: int) -> Iterator[Parameter]:
    yield _matrix(f"{prefix}.gate_up", 2 * hidden, config.width)
    yield from _branch(f"{prefix}.gate", (hidden,), config)
    yield from _branch(f"{prefix}.up", (hidden,), config)
    yield _matrix(f"{prefix}.down", config.width, hidden)


def _mixture(prefix: str, config: ModelConfig) -> Iterator[Parameter]:
    hidden = config.mlp_ratio * config.width // config.top_k
    routed = config.routed_experts
    shares = config.vectors.experts
    each_in = (routed,) if shares == "own" else ()
    each_out = (routed,) if shares != "shared" else ()
    yield _matrix(f"{prefix}.router", routed, config.width, role="router", counted=False)
    yield from _inner(f"{prefix}.router", config)
    yield _matrix(f"{prefix}.experts_gate_up", 2 * hidden, config.width, role="expert", experts=routed)
    for name in ("gate", "up"):
        yield from _inner(f"{prefix}.experts_{name}", config, each_in)
        yield from _outer(f"{prefix}.experts_{name}", (*each_out, hidden), config)
    yield _matrix(f"{prefix}.experts_down", config.width, hidden, role="expert", experts=routed)
    if config.shared_expert:
        yield from _swiglu(f"{prefix}.shared", config, hidden)


def _matrix(
    name: str, fan_out: int, fan_in: int, *, role: Role = "hidden", experts: int = 0, counted: bool = True
) -> Parameter:
    shape = (experts, fan_out, fan_in) if experts else (fan_out, fan_in)
    return Parameter(name=name, shape=shape, role=role, init=kaiming(fan_in), counted=counted)


def _pre_norm(name: str, config: ModelConfig) -> Iterator[Parameter]:
    if config.vectors.enabled and not config.vectors.hetero:
        yield from _vector(name, (config.width,), "input", config)


def _post_norm(name: str, config: ModelConfig) -> Iterator[Parameter]:
    if config.vectors.enabled and config.sandwich_norm:
        yield from _vector(name, (config.width,), "output", config)


def _branch(name: str, outer: tuple[int, ...], config: ModelConfig) -> Iterator[Parameter]:
    """The scale vectors before and after one map that reads a pre-norm."""
    yield from _inner(name, config)
    yield from _outer(name, outer, config)


def _inner(name: str, config: ModelConfig, each: tuple[int, ...] = ()) -> Iterator[Parameter]:
    if config.vectors.hetero:
        yield from _vector(f"{name}_in", (*each, config.width), "input", config)


def _outer(name: str, shape: tuple[int, ...], config: ModelConfig) -> Iterator[Parameter]:
    vectors = config.vectors
    if vectors.placement != "standard":
        by_itself: NormClass = "input" if vectors.placement == "dp" else "output"
        norm_class = by_itself if vectors.outer_class == "auto" else vectors.outer_class
        yield from _vector(f"{name}_out", shape, norm_class, config, plain=not vectors.reparam_outer)


def _vector(
    name: str, shape: tuple[int, ...], norm_class: NormClass, config: ModelConfig, *, plain: bool = False
) -> Iterator[Parameter]:
    """The parts of one scale vector over the last dimension; β is a number for each vector."""
    for part, init in PARTS["plain" if plain else config.vectors.reparam].items():
        yield Parameter(
            name=f"{name}.{part}",
            shape=(*shape[:-1], 1) if part == "beta" else shape,
            role="vector",
            norm_class=norm_class,
            part=part,
            init=init,
            counted=False,
        )
