"""The typed configuration of one training run, complete when made; no torch, so that a login node can plan.

Every class is the scientific configuration of a run: a field is part of a run's identity unless its metadata says
`scientific: False`. A field that equals its default is left out of the identity, so **a default never changes**.
"""

from dataclasses import dataclass, field, fields
from typing import Literal

Role = Literal["embedding", "head", "hidden", "expert", "router", "vector"]
"""What a parameter is to the optimiser (`model.parameters` lists each one's)."""


def check(condition: bool, message: str) -> None:
    """Raise `ValueError(message)` unless the condition holds; `load_sweep` adds the place."""
    if not condition:
        raise ValueError(message)


def positive(kind: str, **values: float) -> None:
    for name, value in values.items():
        check(value > 0, f"{kind} {name} must be positive, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorsConfig:
    """Scale vectors, the gains γ of norms (arXiv 2605.26895); the defaults are the usual ones, a γ for each norm.

    N(x) is x over its root mean square. What a choice says of matrices holds for those that read a pre-norm.
    """

    enabled: bool = True
    """Whether norms have a γ at all."""
    keep_final: bool = False
    """Whether the last norm has one even then: on the sphere, where the head's norm is fixed, it alone makes logits
    large."""
    hetero: bool = False
    """Heterogeneity: a γ of its own for each map that reads a pre-norm, the queries', keys', values' and headwise
    gate's, the MLP's gate and up, and the router's."""
    placement: Literal["standard", "dp", "dnp"] = "standard"
    """Around the maps of queries, keys, values, gate and up: W(γ⊙N(x)); γᵃ⊙W(γᵇ⊙N(x)); or γᵃ⊙N(W(γᵇ⊙N(x))), which
    takes the place of QK-norm."""
    axis: Literal["head", "full"] = "head"
    """Of queries, keys and values: whether N works within each head and heads share the γᵃ of queries and keys."""
    reparam: Literal["plain", "or", "er"] = "plain"
    """γ itself, β·N(α), or exp(β + α − mean α), with a number β and a vector α."""
    reparam_outer: bool = True
    """Whether γᵃ is reparametrised too (the paper does not say)."""
    wd_input: float = 0.0
    """Decay of γ that a matrix follows, in multiples of the matrices' (1: the paper's individual weight decay)."""
    wd_output: float = 0.0
    """Decay of γ that no matrix follows, in multiples of the matrices' (the paper's is 0)."""
    wd_alpha: bool = True
    """Whether α decays where its γ does (the paper does not say)."""
    wd_beta: bool = True
    """Whether β decays where its γ does (the paper does not say)."""
    final_class: Literal["input", "output"] = "input"
    """What the last norm counts as; its γ could be absorbed by the head, which is not tied to the embedding."""
    outer_class: Literal["auto", "input", "output"] = "auto"
    """What γᵃ counts as; by itself input in `dp`, where the rows of W could absorb it, and output in `dnp`."""
    experts: Literal["shared_in", "own", "shared"] = "shared_in"
    """Of a layer's routed experts: whether they share γᵇ and have a γᵃ each, have both each, or share both."""
    fold: Literal["auto", "always", "never"] = field(default="auto", metadata={"scientific": False})
    """Whether the γ of one map multiplies its weight, once per pass, rather than activations; by itself where a pass
    has more tokens than the map has outputs."""

    def __post_init__(self) -> None:
        others = (one for one in fields(self) if one.name not in ("enabled", "keep_final", "fold"))
        check(
            self.enabled or all(getattr(self, one.name) == one.default for one in others),
            "vectors.enabled=false leaves no scale vectors to set up; leave the other settings of vectors out",
        )
        check(not (self.enabled and self.keep_final), "vectors.keep_final needs vectors.enabled=false; leave it out")
        check(
            self.wd_input >= 0 and self.wd_output >= 0,
            f"wd_input and wd_output are multiples of the weight decay, at least 0; got {self.wd_input:g} and "
            f"{self.wd_output:g}",
        )

    @property
    def decay(self) -> bool:
        """Whether any of them decays."""
        return self.wd_input > 0 or self.wd_output > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Transformer-Next of HyperP §4 (arXiv 2603.28743) with its ablation switches; the defaults are its d = 8 model."""

    width: int = 1024
    depth: int = 8
    head_size: int = 128
    attention_ratio: int = 2
    """Inner width of attention over `width`: query_heads = attention_ratio · width / head_size."""
    kv_heads: int = 4
    mlp_ratio: int = 4
    """Hidden width of the SwiGLU over `width`."""
    vocab: int = 32_000
    context: int = 4096
    """Tokens per training sequence."""
    qk_norm: bool = True
    sandwich_norm: bool = False
    """A norm on what each branch adds to the residual stream, as in Gemma 2 (arXiv 2408.00118)."""
    headwise_gate: bool = True
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    head_std: float = 0.02
    """Standard deviation of the head's elements at the start; on the sphere it bounds the logits for good, which are
    √width · head_std large before the last norm's gain (HyperP: 0.02, 0.64 of them at width 1024)."""
    mlp: Literal["dense", "moe"] = "dense"
    sparsity: int = 1
    """S: the pool holds top_k · sparsity experts (moe only)."""
    top_k: int = 1
    """k: granularity; experts are mlp_ratio · width / k wide (moe only)."""
    shared_expert: bool = True
    """One of the pool's experts is always on (moe only; needs top_k ≥ 2)."""
    gate: Literal["sqrt", "classical"] = "sqrt"
    """What multiplies an expert's output: √ of its probability, or the probability (moe only)."""
    shared_scale: Literal["sqrt_gate", "always", "never"] = "sqrt_gate"
    """When routed and shared output together are divided by √2: with SqrtGate only (the authors' code), always (the
    paper's text), or never (moe with a shared expert only)."""
    aux_weight: float = 0.1
    """γ of the load-balancing loss, summed over layers (HyperP eq. 9); 0 leaves it out (moe only)."""
    aux_batch_tokens: int = 0
    """Tokens over which the load is balanced, whatever the micro-batch and the ranks: equal parts of a batch, the same
    that stability is measured over. 0 takes the whole batch, or its largest equal parts of at most 32,768 tokens."""
    vectors: VectorsConfig = VectorsConfig()

    def __post_init__(self) -> None:
        positive(
            "the model's",
            width=self.width,
            depth=self.depth,
            head_size=self.head_size,
            attention_ratio=self.attention_ratio,
            kv_heads=self.kv_heads,
            mlp_ratio=self.mlp_ratio,
            vocab=self.vocab,
            context=self.context,
            rope_base=self.rope_base,
            norm_eps=self.norm_eps,
            head_std=self.head_std,
            sparsity=self.sparsity,
            top_k=self.top_k,
        )
        check(self.aux_weight >= 0, f"aux_weight must be 0 (off) or positive, got {self.aux_weight}")
        check(
            self.aux_batch_tokens >= 0 and self.aux_batch_tokens % self.context == 0,
            f"aux_batch_tokens must be 0 (chosen) or a multiple of the context {self.context}, "
            f"got {self.aux_batch_tokens}",
        )
        inner = self.attention_ratio * self.width
        check(self.head_size % 2 == 0, f"head_size must be even for rotary embeddings, got {self.head_size}")
        check(
            inner % self.head_size == 0,
            f"head_size {self.head_size} does not divide the attention width {inner} "
            f"(attention_ratio {self.attention_ratio} × width {self.width}); choose a head_size that does",
        )
        check(
            self.query_heads % self.kv_heads == 0,
            f"kv_heads {self.kv_heads} does not divide the {self.query_heads} query heads "
            f"(attention_ratio × width / head_size); choose a divisor of {self.query_heads}",
        )
        if self.mlp == "dense":
            check(
                self.sparsity == 1 and self.top_k == 1,
                f"sparsity {self.sparsity} and top_k {self.top_k} need a mixture of experts; set model.mlp=moe",
            )
        else:
            check(
                (self.mlp_ratio * self.width) % self.top_k == 0,
                f"top_k {self.top_k} does not divide the MLP width {self.mlp_ratio * self.width}; choose a divisor",
            )
            check(
                not self.shared_expert or self.top_k >= 2,
                f"a shared expert needs top_k of at least 2, got {self.top_k}; set model.shared_expert=false",
            )

    @property
    def has_qk_norm(self) -> bool:
        """Whether queries and keys have a norm of their own; `dnp` is one already."""
        return self.qk_norm and self.vectors.placement != "dnp"

    @property
    def query_heads(self) -> int:
        return self.attention_ratio * self.width // self.head_size

    @property
    def routed_experts(self) -> int:
        """Experts that the router chooses from: the pool without its shared expert (moe only)."""
        return self.top_k * self.sparsity - self.shared_expert

    @property
    def routed_top_k(self) -> int:
        """Experts that the router chooses for a token (moe only)."""
        return self.top_k - self.shared_expert


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """The update rule of the hidden matrices and its constants (HyperP §2 and its code)."""

    name: Literal["muonh", "muon", "adamw"] = "muonh"
    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5
    ns_dtype: Literal["float64", "float32", "bfloat16", "float16"] = "float32"
    """Precision of Newton–Schulz; the paper's is bfloat16."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    """λ of the base configuration; what one step removes is `Rates.weight_decay`."""
    clip: float = 1.0
    """Global gradient norm; 0 switches clipping off."""
    expert_sphere: Literal["expert", "layer"] = "expert"
    """Whether each matrix of an expert keeps its norm (the paper's text), or those of all experts of a layer together
    (the authors' code on one process, where it was; muonh only)."""

    def __post_init__(self) -> None:
        check(0 <= self.momentum < 1, f"momentum must lie in [0, 1), got {self.momentum}")
        check(0 <= self.beta1 < 1 and 0 <= self.beta2 < 1, f"betas must lie in [0, 1), got {self.beta1}, {self.beta2}")
        check(self.ns_steps >= 1, f"ns_steps must be at least 1, got {self.ns_steps}")
        check(self.eps > 0, f"eps must be positive, got {self.eps}")
        check(self.clip >= 0, f"clip must be 0 (off) or positive, got {self.clip}")
        check(self.weight_decay >= 0, f"weight_decay must not be negative, got {self.weight_decay}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over training as a multiple of its peak; the default is HyperP's (§4): linear to a tenth."""

    name: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    final: float = 0.1
    """Rate at the end over the peak."""
    warmup: float = 0.0
    """Share of the steps that rise linearly from 0."""
    decay: float = 0.2
    """Share of the steps that decay (wsd only)."""

    def __post_init__(self) -> None:
        check(0 <= self.final <= 1, f"final must lie in [0, 1], got {self.final}")
        check(0 <= self.warmup < 1, f"warmup is a share of the steps in [0, 1), got {self.warmup}")
        check(0 < self.decay <= 1, f"decay is a share of the steps in (0, 1], got {self.decay}")
        if self.name == "wsd":
            check(
                self.warmup + self.decay <= 1, f"warmup {self.warmup} and decay {self.decay} overlap; lower one of them"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Where tokens come from; the fingerprint, not the path, is part of a run's identity."""

    source: Literal["python_source", "synthetic", "text", "shards", "hf"] = "python_source"
    path: str = field(default="", metadata={"scientific": False})
    """File, folder or glob (text, shards, hf), or the name of a dataset on the Hugging Face hub (hf)."""
    subset: str = field(default="", metadata={"scientific": False})
    """Configuration of a dataset that has several (hf); this, split and revision enter the fingerprint."""
    split: str = field(default="train", metadata={"scientific": False})
    """Split of a folder or of a dataset on the hub (hf)."""
    revision: str = field(default="", metadata={"scientific": False})
    """Commit of a dataset on the hub, 40 hexadecimal digits (hf)."""
    shuffle_buffer: int = 10_000
    """Documents that are shuffled together, by `seed.data` and anew in every epoch; 0 keeps the stream's order (hf)."""
    tokenizer: str = field(default="bytes", metadata={"scientific": False})
    """`bytes`, or the path of a `tokenizers` JSON file (text, hf)."""
    column: str = "text"
    """Field of a jsonl record or column of a parquet file that holds the text (text, hf)."""
    validation: float = 0.05
    """Share of the documents that are held out (python_source, text, hf, shards without validation files)."""
    entropy_order: int = 1
    """Order of the Markov chain (synthetic)."""
    concentration: float = 0.1
    """Dirichlet concentration of the chain's transitions: lower is more predictable (synthetic)."""
    source_seed: int = 0
    """Seed of the chain itself (synthetic), not of a run."""
    token_dtype: Literal["uint16", "uint32"] = "uint16"
    """Type of the tokens in files without an llm.c header, which cannot say it themselves (shards)."""
    fingerprint: str = ""
    """Hash of the content, filled in by `model.corpus.fingerprint` before a run is planned."""

    def __post_init__(self) -> None:
        check(0 < self.validation < 1, f"validation is a share in (0, 1), got {self.validation}")
        check(1 <= self.entropy_order <= 3, f"entropy_order must be 1, 2 or 3, got {self.entropy_order}")
        positive("data", concentration=self.concentration)
        what = "file, folder, glob or dataset of the hub" if self.source == "hf" else "file, folder or glob"
        check(
            self.source not in ("text", "shards", "hf") or bool(self.path),
            f"data.path is empty: name the {what} that data={self.source} reads",
        )
        check(self.shuffle_buffer >= 0, f"data.shuffle_buffer must be 0 or positive, got {self.shuffle_buffer}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """Validation loss: mean next-token cross-entropy, nats per token, over a fixed set of sequences."""

    sequences: int = 200
    """Validation sequences of `model.context` tokens, the same for every run of a source (HyperP code: 200)."""
    every: int = field(default=0, metadata={"scientific": False})
    """Steps between validations on the way; 0 validates at the end only."""

    def __post_init__(self) -> None:
        positive("evaluation", sequences=self.sequences)
        check(self.every >= 0, f"evaluation.every must be 0 or positive, got {self.every}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeds:
    """`init` draws the weights, `data` orders the tokens; the default is HyperP's (code: 3407)."""

    init: int = 3407
    data: int = 3407


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The plain numbers that a transfer rule hands to a run; `model` computes no law.

    Peak learning rates by role, multipliers of the residual branches and the logits, and the fraction of a hidden
    matrix that decay removes in one step at the peak rate.
    """

    hidden: float
    head: float
    embedding: float
    vector: float
    residual_multiplier: float = 1.0
    logit_multiplier: float = 1.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        positive("the peak rate of", hidden=self.hidden, head=self.head, embedding=self.embedding, vector=self.vector)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides the losses of one run."""

    model: ModelConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    data: DataConfig
    evaluation: EvaluationConfig
    seed: Seeds
    rates: Rates
    tokens: int
    batch_tokens: int
    precision: Literal["float64", "float32", "bfloat16"] = "float32"
    """Of activations and matrix products; weights, update and loss stay in float32 or better."""

    def __post_init__(self) -> None:
        positive("training", tokens=self.tokens, batch_tokens=self.batch_tokens)
        check(
            self.batch_tokens % self.model.context == 0,
            f"batch_tokens {self.batch_tokens} is not a multiple of model.context {self.model.context}; "
            f"choose {max(1, round(self.batch_tokens / self.model.context)) * self.model.context}",
        )
        check(
            2 * self.tokens >= self.batch_tokens,
            f"tokens {self.tokens} is less than half a batch of {self.batch_tokens}: not one step; "
            "raise tokens or lower batch_tokens",
        )
        check(
            self.optimizer.name != "muonh" or self.optimizer.weight_decay == 0 or self.model.vectors.decay,
            f"weight_decay {self.optimizer.weight_decay} has no place on the sphere (HyperP theorem 1): set it to 0 "
            "for muonh, or let scale vectors decay (model.vectors.wd_input=1)",
        )
        check(
            self.batch_tokens % (self.model.aux_batch_tokens or 1) == 0,
            f"model.aux_batch_tokens {self.model.aux_batch_tokens} does not divide batch_tokens {self.batch_tokens} "
            "into equal parts; choose a divisor of it, or 0",
        )

    @property
    def aux_sequences(self) -> int:
        """Sequences of one part of the batch over which the load is balanced and stability is measured."""
        if self.model.aux_batch_tokens:
            return self.model.aux_batch_tokens // self.model.context
        most = max(1, AUX_TOKENS // self.model.context)
        return next(size for size in range(min(most, self.batch_sequences), 0, -1) if self.batch_sequences % size == 0)

    @property
    def balances(self) -> bool:
        """Whether the loss holds a load-balancing part."""
        return self.model.mlp == "moe" and self.model.aux_weight > 0

    def looks_ahead(self, share: int, micro_batch: int) -> bool:
        """Whether a step makes a forward pass more, to know the load of experts over whole parts of the batch.

        Args:
            share: Sequences of a rank's part of the batch.
            micro_batch: Sequences of a pass; 0: all.
        """
        size = min(micro_batch or share, share)
        whole = share % self.aux_sequences == 0 and (size == share or size % self.aux_sequences == 0)
        return self.balances and not whole

    @property
    def steps(self) -> int:
        """Optimiser steps: tokens over batch_tokens, to the nearest (HyperP §4: 4959 for d = 8)."""
        return max(1, int(self.tokens / self.batch_tokens + 0.5))

    @property
    def batch_sequences(self) -> int:
        return self.batch_tokens // self.model.context


AUX_TOKENS = 32_768
"""Most tokens that a load is balanced over unless asked otherwise: 8 sequences of HyperP's context, a micro-batch that
fits a GPU, so that no second pass is needed to know the load."""
CHECKPOINTS_KEPT = 2
"""Of a run that trains: the newest, and the one before it in case the newest is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written, and what stays of them when a run is finished."""

    every_s: float = 300.0
    """Between two checkpoints."""
    keep_final: bool = False
    """Whether the last weights (without the optimiser's state) stay beside the record."""
    background: bool = True
    """Whether training goes on while a checkpoint travels to the disk; the last one is always waited for."""

    def __post_init__(self) -> None:
        positive("execution.checkpoint", every_s=self.every_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a run is carried out; nothing here changes its losses beyond the tolerances of its precision."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    """CPU threads of each process."""
    micro_batch: int = 0
    """Sequences per forward pass and process; 0 takes the whole share of the batch, or of its halves, quarters, … the
    largest that fits into memory (`model.shape.choose_pass`)."""
    activation_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Whether blocks keep nothing but their input for the backward pass and are computed again there, a third more
    work; `auto` only where memory holds no pass of a sensible size without."""
    compile: Literal["auto", "on", "off"] = "off"
    """Whether blocks are compiled (`model.compiling`); `auto` measures it where enough of a run is left to repay it."""
    layout: Literal["ddp", "fsdp", "hsdp"] = "ddp"
    """What several processes of a run hold: whole copies; shards of everything; or shards within each node and copies
    across nodes."""
    shard_processes: int = 0
    """Processes that share one copy of the model (hsdp only); 0 takes those of a node."""
    triton: bool = False
    """Whether MuonH runs the programs of `kernels.triton` (on a GPU) instead of torch's."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    stability_every: int = 50
    """Steps between measurements of stability, which the first and the last step have too; 0 for none. One costs a
    forward pass over `TrainConfig.aux_sequences`: at most a third of a step, so that 50 cost less than 1 %."""

    def __post_init__(self) -> None:
        positive("execution", threads=self.threads, log_every=self.log_every)
        check(self.stability_every >= 0, f"stability_every must be 0 (never) or positive, got {self.stability_every}")
        check(
            self.shard_processes >= 0, f"shard_processes must be 0 (a node's) or positive, got {self.shard_processes}"
        )
        check(
            self.shard_processes == 0 or self.layout == "hsdp",
            f"shard_processes {self.shard_processes} needs execution.layout=hsdp, not {self.layout}",
        )
        check(
            not self.triton or self.device != "cpu",
            "triton needs a GPU, and execution.device is cpu; set execution.triton=false or execution.device=auto",
        )
        check(self.micro_batch >= 0, f"micro_batch must be 0 (as fits) or positive, got {self.micro_batch}")
