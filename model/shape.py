"""What a model costs before it exists: parameters by convention, FLOPs per token, memory; no torch."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from model.config import ModelConfig, TrainConfig
from model.parameters import parameters, stacks


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The counts of one model, by the conventions of HyperP §4 (arXiv 2603.28743) unless they say otherwise."""

    params: int
    """The paper's N: embedding, head and the matrices that work on one token; no norms, headwise gate or router."""
    params_total: int
    """Every element of every parameter (`numel`)."""
    params_paper_total: int
    """HyperP's total of a mixture: as `params`, with all experts and a router row for each of the pool's k·S experts.

    The shared expert has such a row too here, though it needs none: so the printed totals are met at every depth.
    """
    flops_per_token: float
    """Of training, forward and backward: 6N and full attention, 12 · depth · (query_heads · head_size) · context."""
    flops_per_token_causal: float
    """What a run is priced by: the embedding lookup costs nothing and a token attends to (context + 1)/2 on average."""


@lru_cache(maxsize=4096)
def model_shape(config: ModelConfig) -> ModelShape:
    """Count a model from its table of parameters.

    >>> model_shape(ModelConfig()).params
    208142336
    """
    table = parameters(config)
    counted = sum(p.size for p in table if p.counted)
    # Of the routed experts (equal in size), routed_top_k work on a token.
    routed = sum(p.size for p in table if p.role == "expert")
    idle = routed - routed * config.routed_top_k // config.routed_experts if routed else 0
    params = counted - idle
    attention = 12 * config.depth * config.query_heads * config.head_size * config.context
    looked_up = sum(p.size for p in table if p.role == "embedding")
    router_rows = config.depth * config.top_k * config.sparsity if config.mlp == "moe" else 0
    return ModelShape(
        params=params,
        params_total=sum(p.size for p in table),
        params_paper_total=counted + router_rows * config.width,
        flops_per_token=6.0 * params + attention,
        flops_per_token_causal=6.0 * (params - looked_up) + attention * (config.context + 1) / (2 * config.context),
    )


def memory_bytes(train: TrainConfig, *, micro_batch: int, processes: int) -> int:
    """Estimated peak memory of one data-parallel process, without what the libraries themselves take.

    weights + gradients + optimiser state + the larger of
    one forward and backward pass (`activation_bytes` of every token, see there) and
    one update (six copies of the largest stack: weight, gradient, direction and the work of Newton–Schulz).

    Weights, gradients and state take b bytes an element, 8 in float64 and else 4. A bfloat16 pass keeps the weights a
    second time in its own precision; with several processes the gradients exist twice, once in the buckets that travel.

    Args:
        train: The run.
        micro_batch: Sequences of one forward pass and process; 0 takes the whole share of the batch.
        processes: Data-parallel processes that share the batch.
    """
    b = 8 if train.precision == "float64" else 4
    sequences = micro_batch or -(-train.batch_sequences // processes)
    tokens = sequences * train.model.context
    weights = model_shape(train.model).params_total
    per_weight = b * (3 if processes > 1 else 2) + (2 if train.precision == "bfloat16" else 0)
    state, stack = _optimizer_elements(train.model, train.optimizer.name)
    return (
        weights * per_weight + b * state + max(tokens * activation_bytes(train.model, train.precision), 6 * b * stack)
    )


@lru_cache(maxsize=4096)
def activation_bytes(config: ModelConfig, precision: Literal["float64", "float32", "bfloat16"]) -> int:
    """Bytes per token that a forward pass keeps for the backward pass, and the logits.

    With a bytes of an activation and b of what stays in float32 or better (norms, residual stream, logarithms), for
    width D, hidden width h of the MLP, and inner widths q of queries, k of keys and values:

    - a norm over n keeps 2bn (its input, and the input normalised) and, before a matrix, an of its output;
    - attention keeps the rotated queries and keys, the values and the outputs a(2q + 2k), gated again aq;
    - SwiGLU keeps both halves, the activation and the product: 4ah; routing keeps each token's copies, 2akD;
    - logits over V tokens: a and 2b, the logarithm and its gradient, and b for the logits in float32.
    """
    a, b = {"float64": (8, 8), "float32": (4, 4), "bfloat16": (2, 4)}[precision]
    width, query = config.width, config.query_heads * config.head_size
    key = config.kv_heads * config.head_size
    norm = (2 * b + a) * width
    attention = a * (2 * query + 2 * key)
    if config.headwise_gate:
        attention += a * query
    if config.qk_norm:
        attention += 2 * b * (query + key)
    mlp = 4 * a * config.mlp_ratio * width
    if config.mlp == "moe":
        mlp += 2 * a * config.routed_top_k * width
    logits = config.vocab * (a + 2 * b + (b if a < b else 0))
    return config.depth * (2 * norm + attention + mlp) + norm + logits


@lru_cache(maxsize=4096)
def _optimizer_elements(config: ModelConfig, name: Literal["muonh", "muon", "adamw"]) -> tuple[int, int]:
    """Elements of the optimiser's state, and of the largest stack that it moves at once."""
    one = ("hidden", "expert", "router") if name != "adamw" else ()
    state = sum(p.size * (1 if p.role in one else 2) for p in parameters(config))
    return state, max(sum(p.size for p in stack) for stack in stacks(config))
