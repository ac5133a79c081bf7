"""What a model costs before it exists: parameters by convention, FLOPs per token, memory; no torch."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from model.config import CHECKPOINTS_KEPT, Execution, ModelConfig, TrainConfig
from model.parameters import ROUND_ELEMENTS, parameters, stacks


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
    params_vectors: int
    """Elements of scale vectors: the gains of norms, their directions and magnitudes (arXiv 2605.26895)."""
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
        params_vectors=sum(p.size for p in table if p.role == "vector"),
        flops_per_token=6.0 * params + attention,
        flops_per_token_causal=6.0 * (params - looked_up) + attention * (config.context + 1) / (2 * config.context),
    )


MEMORY_SHARE = 0.92
"""Of a device's memory that a run may fill: the rest is the CUDA context, NCCL's buffers and fragmentation."""
MIN_PASS_TOKENS = 4096
"""Tokens down to which passes are made smaller before activations are computed twice: a sequence of HyperP's. At width
1024 about 2,000 give each of an H100's 132 multiprocessors one tile of 128 × 128 (an estimate)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """How a process takes its share of a batch through the model."""

    sequences: int
    """Of one forward and backward pass; the last of a step may have fewer."""
    checkpointing: bool
    """Whether activations are computed again for the backward pass instead of kept."""
    memory: int
    """Estimated peak memory of the process, bytes (`memory_bytes`)."""


def choose_pass(
    train: TrainConfig,
    execution: Execution,
    *,
    processes: int,
    budget: float,
    shard_processes: int = 0,
    halved: int = 0,
) -> Pass:
    """The first of these that fits into memory, or the last of them if none does:

    1. the whole share of a process, its half, its quarter, … of at least `MIN_PASS_TOKENS` tokens;
    2. the whole share, its half, its quarter, …, down to one sequence, with activation checkpointing.

    `execution` may leave only one size, or all of them with or without checkpointing. The batch is the same whatever
    comes out, and all processes of a run that know the same budget choose alike.

    Args:
        train: The run.
        execution: What is asked for.
        processes: Processes that share the batch.
        budget: Bytes that a process may fill.
        shard_processes: As in `memory_bytes`.
        halved: How often memory ran out in spite of the estimate: so often is what was chosen halved, and made small
            with checkpointing.
    """
    share = -(-train.batch_sequences // processes)
    asked = execution.activation_checkpointing
    sizes = [min(execution.micro_batch, share)] if execution.micro_batch else _halves(share)
    sensible = [n for n in sizes if n == sizes[0] or n * train.model.context >= MIN_PASS_TOKENS]
    ways = [] if asked == "on" else [(n, False) for n in (sensible if asked == "auto" else sizes)]
    ways += [] if asked == "off" else [(n, True) for n in sizes]

    def found(sequences: int, *, checkpointing: bool) -> Pass:
        memory = memory_bytes(
            train,
            micro_batch=sequences,
            processes=processes,
            layout=execution.layout,
            shard_processes=shard_processes,
            checkpointing=checkpointing,
        )
        return Pass(sequences=sequences, checkpointing=checkpointing, memory=memory)

    passes = (found(n, checkpointing=checkpointing) for n, checkpointing in ways)
    chosen = next((one for one in passes if one.memory <= budget), None)
    if chosen is None:
        chosen = found(ways[-1][0], checkpointing=ways[-1][1])
    if halved == 0:
        return chosen
    fewer = max(1, chosen.sequences >> halved)
    # Also where there is nothing left to halve: the same again would run out of memory again.
    small = asked == "auto" and (chosen.sequences >> halved) * train.model.context < MIN_PASS_TOKENS
    return found(fewer, checkpointing=chosen.checkpointing or small)


def settled(execution: Execution, chosen: Pass) -> Execution:
    """The execution with nothing left to choose about its passes."""
    checkpointing: Literal["on", "off"] = "on" if chosen.checkpointing else "off"
    return replace(execution, micro_batch=chosen.sequences, activation_checkpointing=checkpointing)


def _halves(share: int) -> list[int]:
    """
    >>> _halves(12)
    [12, 6, 3, 1]
    """
    return [share >> times for times in range(share.bit_length())]


def memory_bytes(
    train: TrainConfig,
    *,
    micro_batch: int,
    processes: int,
    layout: Literal["ddp", "fsdp", "hsdp"] = "ddp",
    shard_processes: int = 0,
    checkpointing: bool = False,
) -> int:
    """Estimated peak memory of one process, the one that holds most, without what the libraries themselves take.

    weights + gradients + optimiser state, of sharded ones this process's part, + the larger of
    one forward and backward pass (`activation_bytes` of every token, see there) and
    one update (six copies of the largest stack: weight, gradient, direction and the work of Newton–Schulz).

    Weights, gradients and state take b bytes an element, 8 in float64 and else 4. A bfloat16 pass keeps the weights a
    second time in its own precision, whole even if they are sharded. Beside this

    - a pass through shards holds, whole, the weights and gradients of embedding, head and last norm, and of blocks
      two in weights, two in gradients and one on its way;
    - the update by several processes holds what travels in a round of Newton–Schulz, four times: the updates, what is
      sent, what is received and the directions; beside them updates of the next round, what is sent and received. It
      exceeds the buckets in which gradients travel.

    Args:
        train: The run.
        micro_batch: Sequences of one forward pass and process; 0 takes the whole share of the batch.
        processes: Processes that share the batch.
        layout: What each of them holds, as `Execution.layout`.
        shard_processes: Processes that share one copy of the model (hsdp only); 0 takes all.
        checkpointing: Whether blocks are computed again for the backward pass.
    """
    b = 8 if train.precision == "float64" else 4
    shards = {"ddp": 1, "fsdp": processes, "hsdp": shard_processes or processes}[layout]
    sequences = micro_batch or -(-train.batch_sequences // processes)
    held = _held_elements(train.model, train.optimizer.name, shards)
    kept = b * (2 * held.weights + held.state)
    if train.precision == "bfloat16":
        kept += 2 * model_shape(train.model).params_total
    tokens = sequences * train.model.context
    logits, vocab = logit_bytes(train.model, train.precision), train.model.vocab
    one_pass = tokens * (activation_bytes(train.model, train.precision, checkpointing=checkpointing) - logits)
    if tokens * vocab < 4 * CHUNK_LOGITS:
        one_pass += tokens * logits
    else:  # a chunk of them, the gradients of what makes them, and the head's copy in a lower precision
        one_pass += CHUNK_LOGITS // vocab * logits + (tokens + vocab) * train.model.width * b
    if shards > 1:
        one_pass += b * (2 * held.root + 5 * held.block)
    update = 6 * b * held.stack
    if processes > 1:
        round_ = max(ROUND_ELEMENTS, held.stack)
        update += 4 * b * min(held.matrices, round_) + 3 * b * min(max(0, held.matrices - round_), round_)
    return kept + max(one_pass, update)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointBytes:
    """What the checkpoints of one run take on disk."""

    one: int
    """A checkpoint: weights and optimiser state."""
    peak: int
    """While it trains: those that are kept, and the next one on its way to the disk."""
    kept: int
    """Once it is done: its last weights, if they are asked for."""


TENSOR_OVERHEAD_BYTES = 300
"""What `torch.save` adds to a tensor: its name, its place, padding to 64 bytes (measured, torch 2.13)."""
NUMBER_BYTES = 9
"""A float in a pickle."""


def checkpoint_bytes(train: TrainConfig, *, keep_final: bool) -> CheckpointBytes:
    """Estimated size of a run's checkpoints, whatever its layout: they hold the run as one process would.

    Every element takes 8 bytes in float64 and else 4; a matrix on a sphere has a radius as well. The losses that
    `train_loss` averages over are there too, of the last 5 % of the steps.
    """
    b = 8 if train.precision == "float64" else 4
    weights = state = tensors = 0
    for parameter in (table := parameters(train.model)):
        matrix = parameter.role in ("hidden", "expert", "router")
        moments = 1 if matrix and train.optimizer.name != "adamw" else 2
        spherical = train.optimizer.name == "muonh" and (matrix or parameter.role == "head")
        radii = parameter.size // (parameter.shape[-2] * parameter.shape[-1]) if spherical else 0
        weights += parameter.size
        state += moments * parameter.size + radii
        tensors += moments + spherical
    final = b * weights + TENSOR_OVERHEAD_BYTES * len(table)
    one = final + b * state + TENSOR_OVERHEAD_BYTES * tensors + NUMBER_BYTES * (train.steps // 20)
    return CheckpointBytes(one=one, peak=(CHECKPOINTS_KEPT + 1) * one, kept=final if keep_final else 0)


CHUNK_LOGITS = 2**25
"""Logits that are held at once where there are four times as many: `kernels.chunked`."""


def logit_bytes(config: ModelConfig, precision: Literal["float64", "float32", "bfloat16"]) -> int:
    """Bytes per token of the logits, their logarithm and their gradient."""
    a, b = {"float64": (8, 8), "float32": (4, 4), "bfloat16": (2, 4)}[precision]
    return config.vocab * (a + 2 * b + (b if a < b else 0))


@lru_cache(maxsize=4096)
def activation_bytes(
    config: ModelConfig, precision: Literal["float64", "float32", "bfloat16"], *, checkpointing: bool = False
) -> int:
    """Bytes per token that a forward pass keeps for the backward pass, and the logits.

    With a bytes of an activation and b of what stays in float32 or better (norms, residual stream, logarithms), for
    width D, hidden width h of the MLP, and inner widths q of queries, k of keys and values:

    - a norm over n keeps 2bn (its input, and the input normalised) and, before a matrix, an of its output;
    - attention keeps the rotated queries and keys, the values and the outputs a(2q + 2k), gated again aq;
    - SwiGLU keeps both halves, the activation and the product: 4ah; routing keeps each token's copies, 2akD;
    - a map with γᵃ keeps 2b of its output (`dp` b), and inputs that are scaled apart b of each;
    - logits over V tokens: a and 2b, the logarithm and its gradient, and b for the logits in float32.

    With `checkpointing` every block keeps its input only, bD, beside all that the one at work has.
    """
    a, b = {"float64": (8, 8), "float32": (4, 4), "bfloat16": (2, 4)}[precision]
    width, query = config.width, config.query_heads * config.head_size
    key = config.kv_heads * config.head_size
    norm = (2 * b + a) * width
    vectors = config.vectors
    after = {"standard": 0, "dp": b, "dnp": 2 * b}[vectors.placement]
    attention = a * (2 * query + 2 * key)
    if config.headwise_gate:
        attention += a * query
    if config.has_qk_norm:
        attention += 2 * b * (query + key)
    apart = b * width if vectors.hetero else 0
    attention += after * (query + 2 * key) + 3 * apart
    mlp = (4 * a + 2 * after) * config.mlp_ratio * width + 2 * apart
    if config.mlp == "moe":
        mlp += 2 * a * config.routed_top_k * width
    norms = 4 if config.sandwich_norm else 2
    block = norms * norm + attention + mlp
    blocks = config.depth * b * width + block if checkpointing else config.depth * block
    return blocks + norm + logit_bytes(config, precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """Elements that a process holds where a copy of the model is cut into so many shards."""

    weights: int
    state: int
    """Of the optimiser."""
    matrices: int
    """Those of the weights that Newton–Schulz moves."""
    root: int
    """Whole: what belongs to no block."""
    block: int
    """Whole."""
    stack: int
    """Whole: the largest that is moved at once."""


@lru_cache(maxsize=4096)
def _held_elements(config: ModelConfig, name: Literal["muonh", "muon", "adamw"], shards: int) -> _Held:
    orthogonal = ("hidden", "expert", "router") if name != "adamw" else ()
    table = parameters(config)
    # The first process holds most: pieces of the first dimension are rounded up.
    held = [-(-p.shape[0] // shards) * (p.size // p.shape[0]) for p in table]
    moments = [1 if p.role in orthogonal else 2 for p in table]
    root = sum(p.size for p in table if not p.name.startswith("blocks."))
    return _Held(
        weights=sum(held),
        state=sum(size * count for size, count in zip(held, moments, strict=True)),
        matrices=sum(size for size, p in zip(held, table, strict=True) if p.role in orthogonal),
        root=root,
        block=(sum(p.size for p in table) - root) // config.depth,
        stack=max(sum(p.size for p in stack) for stack in stacks(config)),
    )
