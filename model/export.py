"""A trained model for others to use: its scale vectors folded into matrices, and as a Hugging Face checkpoint.

What is folded, with the γ of arXiv 2605.26895 materialised first:

| vector                                    | goes to                                                        |
|-------------------------------------------|----------------------------------------------------------------|
| γ of a pre-norm, or γᵇ of a map           | the columns of the maps that read it                           |
| γ of the last norm                        | the columns of the head                                        |
| γᵃ of `dp`                                | the rows of its map                                            |
| γᵃ of values (`dnp`)                      | the columns of the attention's output map that they meet       |
| γᵃ of the up projection (`dnp`)           | the columns of the down projection                             |
| γᵃ of queries and keys, or their norms' γ | stays: rotary positions follow                                 |
| γᵃ of the MLP's gate (`dnp`)              | stays: SiLU follows                                            |
| γ of a sandwich's norms                   | stays: the residual stream follows                             |

Folded weights have left their spheres: they are for use, and no run can go on from them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import ModelConfig, Rates, TrainConfig, VectorsConfig
from model.norm import exponential, oriented
from model.parameters import parameters
from model.transformer import Transformer


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """The weights of a model whose scale vectors were folded."""

    config: ModelConfig
    """Of the model that has these weights: plain vectors, one for each norm."""
    weights: Mapping[str, Tensor]
    """All its parameters; the vectors that were folded are 1."""
    folded: tuple[str, ...]
    """Names of the vectors that went into matrices, as the trained model has them, without their parts."""
    kept: tuple[str, ...]
    """Names of those that stay."""


def materialised(config: ModelConfig, weights: Mapping[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The model with plain vectors: γ for every α and β; all else as it is."""
    made = exponential if config.vectors.reparam == "er" else oriented
    found = {name: weight for name, weight in weights.items() if name.rpartition(".")[2] not in ("alpha", "beta")}
    for name in weights:
        stem, _, part = name.rpartition(".")
        if part == "alpha":
            found[f"{stem}.gain"] = made(weights[name], weights[f"{stem}.beta"])
    return replace(config, vectors=replace(config.vectors, reparam="plain")), found


def fold(config: ModelConfig, weights: Mapping[str, Tensor]) -> Folded:
    """Fold every scale vector that a matrix can take, in the precision of the weights.

    Args:
        config: Of the model.
        weights: Its whole parameters, by name.

    Returns:
        Logits are equal before and after, but for rounding.
    """
    plain, found = materialised(config, weights)
    folded: list[str] = []
    kept: list[str] = []

    def take(name: str) -> Tensor | None:
        """γ of a vector that will be folded."""
        gamma = found.pop(f"{name}.gain", None)
        if gamma is not None:
            folded.append(name)
        return gamma

    for layer in range(config.depth):
        block = f"blocks.{layer}"
        _fold_attention(config, found, f"{block}.attention", take(f"{block}.attention_norm"), take)
        _fold_mlp(config, found, f"{block}.mlp", take(f"{block}.mlp_norm"), take)
    gamma = take("final_norm")
    if gamma is not None:
        found["head"] = found["head"] * gamma
    kept += [name.removesuffix(".gain") for name in found if name.endswith(".gain")]
    vectors = replace(plain.vectors, hetero=False)
    if vectors.placement == "dp":
        vectors = replace(vectors, placement="standard")
    result = replace(plain, vectors=vectors)
    for parameter in parameters(result):
        if parameter.name not in found:
            found[parameter.name] = torch.ones(parameter.shape, dtype=found["head"].dtype)
    return Folded(config=result, weights=found, folded=tuple(folded), kept=tuple(kept))


Take = Callable[[str], Tensor | None]
"""γ of a vector that will be folded, by name; None where the model has none."""


def _fold_attention(
    config: ModelConfig, found: dict[str, Tensor], prefix: str, shared: Tensor | None, take: Take
) -> None:
    dp = config.vectors.placement == "dp"
    for name in ("query", "key", "value", "gate"):
        if f"{prefix}.{name}" not in found:
            continue
        own = take(f"{prefix}.{name}_in")
        _columns(found, f"{prefix}.{name}", shared if own is None else own)
        if dp and (rows := take(f"{prefix}.{name}_out")) is not None:
            weight = found[f"{prefix}.{name}"]
            found[f"{prefix}.{name}"] = weight * rows.repeat(weight.shape[0] // rows.numel()).unsqueeze(-1)
    if not dp and (gamma := take(f"{prefix}.value_out")) is not None:
        # A group's values reach the output map once for each of its query heads.
        heads = gamma.view(config.kv_heads, config.head_size)
        shares = config.query_heads // config.kv_heads
        _columns(found, f"{prefix}.output", heads.repeat_interleave(shares, dim=0).flatten())


def _fold_mlp(config: ModelConfig, found: dict[str, Tensor], prefix: str, shared: Tensor | None, take: Take) -> None:
    if config.mlp == "dense":
        return _fold_halves(config, found, f"{prefix}.", f"{prefix}.gate_up", f"{prefix}.down", shared, take)
    own = take(f"{prefix}.router_in")
    _columns(found, f"{prefix}.router", shared if own is None else own)
    experts = f"{prefix}.experts_"
    _fold_halves(config, found, experts, f"{experts}gate_up", f"{experts}down", shared, take)
    if config.shared_expert:
        one = f"{prefix}.shared."
        _fold_halves(config, found, one, f"{one}gate_up", f"{one}down", shared, take)
    return None


def _fold_halves(
    config: ModelConfig, found: dict[str, Tensor], prefix: str, both: str, down: str, shared: Tensor | None, take: Take
) -> None:
    """Into gate and up, which share a matrix, and down; of experts with their number in front."""
    dp = config.vectors.placement == "dp"
    halves = []
    for name, half in zip(("gate", "up"), found[both].chunk(2, dim=-2), strict=True):
        own = take(f"{prefix}{name}_in")
        gamma = shared if own is None else own
        scaled = half if gamma is None else half * gamma.unsqueeze(-2)
        rows = take(f"{prefix}{name}_out") if dp else None
        halves.append(scaled if rows is None else scaled * rows.unsqueeze(-1))
    found[both] = torch.cat(halves, dim=-2)
    if not dp:
        _columns(found, down, take(f"{prefix}up_out"))


def _columns(found: dict[str, Tensor], name: str, gamma: Tensor | None) -> None:
    """γ on the columns of a matrix, of each expert's where both have experts in front."""
    if gamma is not None:
        found[name] = found[name] * gamma.unsqueeze(-2)


Format = Literal["both", "native", "hf"]
Dtype = Literal["float32", "bfloat16", "float16", "float64"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written of a model."""

    native: Path | None
    """Folder of `model.safetensors` and `config.json` in this package's names."""
    hf: Path | None
    """Folder that `transformers.AutoModelForCausalLM.from_pretrained` loads."""
    folded: tuple[str, ...]
    """Scale vectors that went into matrices."""
    kept: tuple[str, ...]
    """Those that no matrix could take."""
    why_no_hf: str
    """What keeps the model from being one of transformers'; empty where it is, or was not asked for."""


def export(
    weights: Mapping[str, Tensor],
    train: TrainConfig,
    out: Path,
    *,
    form: Format = "both",
    folding: bool = True,
    dtype: Dtype = "float32",
    about: Mapping[str, Any],
) -> Exported:
    """Write a model as `native` and `hf` into a folder.

    Args:
        form: Which of them; `both` leaves `hf` out where no architecture of transformers computes the same.
        folding: Whether the native one has its vectors folded; `hf` always has.
        dtype: Of the weights that are written.
        about: What `config.json` of the native one says beside the model.

    Raises:
        ValueError: `hf` alone was asked for and no architecture fits.
        OSError: Files cannot be written.
    """
    config, rates, kind = train.model, train.rates, getattr(torch, dtype)
    made = fold(config, weights)
    checkpoint, why = None, ""
    if form != "native":
        try:
            checkpoint = hugging_face(made, rates)
        except ValueError as error:
            if form == "hf":
                raise
            why = str(error)
    folded = made.folded if folding or form == "hf" else ()
    if form != "hf":
        shown = made.config if folding else config
        tensors = {name: weight.to(kind) for name, weight in (made.weights if folding else weights).items()}
        write_native(tensors, shown, rates, out / "native", {**about, "folded": folded, "kept": made.kept})
    if checkpoint is not None:
        write_hugging_face(checkpoint, out / "hf", dtype=kind)
    return Exported(
        native=out / "native" if form != "hf" else None,
        hf=out / "hf" if checkpoint is not None else None,
        folded=folded,
        kept=made.kept,
        why_no_hf=why,
    )


def write_native(
    weights: Mapping[str, Tensor], config: ModelConfig, rates: Rates, folder: Path, about: Mapping[str, Any]
) -> None:
    """Write weights in this package's own names, with all that `read_native` needs.

    Args:
        about: What else `config.json` says, beside `model`, `residual_multiplier` and `logit_multiplier`.

    Raises:
        OSError: They cannot be written.
    """
    multipliers = {"residual_multiplier": rates.residual_multiplier, "logit_multiplier": rates.logit_multiplier}
    write_weights(weights, {**about, "model": asdict(config), **multipliers}, folder)


def read_native(folder: Path | str, *, dtype: torch.dtype = torch.float32) -> Transformer:
    """The model that `write_native` wrote; `model(tokens)` gives its logits.

    Raises:
        OSError: A file is missing or cannot be read.
    """
    folder = Path(folder)
    described = json.loads((folder / "config.json").read_text())
    model = described["model"]
    config = ModelConfig(**{**model, "vectors": VectorsConfig(**model["vectors"])})
    names = ("residual_multiplier", "logit_multiplier")
    rates = Rates(hidden=1, head=1, embedding=1, vector=1, **{name: described[name] for name in names})
    made = Transformer(config, rates, seed=0, dtype=dtype)
    made.load_state_dict(load_file(folder / "model.safetensors"))
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFace:
    """A checkpoint that `transformers` loads: `AutoModelForCausalLM.from_pretrained`."""

    config: Mapping[str, Any]
    """What `config.json` holds."""
    weights: Mapping[str, Tensor]


def hugging_face(folded: Folded, rates: Rates) -> HuggingFace:
    """The model in the layout of Llama, Qwen3 (with QK-norm), Qwen3-MoE, or Qwen3-Next (with the headwise gate).

    Multipliers of residual branches and logits go into the matrices that they follow. A headwise gate becomes
    Qwen3-Next's elementwise one with equal rows within a head.

    Raises:
        ValueError: None of them computes what this model does; the text names the setting.
    """
    config = folded.config
    _check_known(config)
    moe, gated = config.mlp == "moe", config.headwise_gate
    kind = "qwen3_moe" if moe else "qwen3_next" if gated else "qwen3" if config.qk_norm else "llama"
    # Qwen3-Next multiplies by 1 + w.
    shift = 1.0 if gated else 0.0
    width, hidden = config.width, config.mlp_ratio * config.width
    found = {
        "model.embed_tokens.weight": folded.weights["embedding"],
        "model.norm.weight": _gain(folded, "final_norm", width) - shift,
        "lm_head.weight": folded.weights["head"] * rates.logit_multiplier,
    }
    for layer in range(config.depth):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        found[f"{theirs}.input_layernorm.weight"] = _gain(folded, f"{ours}.attention_norm", width) - shift
        found[f"{theirs}.post_attention_layernorm.weight"] = _gain(folded, f"{ours}.mlp_norm", width) - shift
        attention = {name: folded.weights[f"{ours}.attention.{name}"] for name in ("query", "key", "value", "output")}
        if gated:
            gate = folded.weights[f"{ours}.attention.gate"].repeat_interleave(config.head_size, dim=0)
            heads = (config.query_heads, config.head_size, width)
            attention["query"] = torch.cat([attention["query"].view(heads), gate.view(heads)], dim=1).flatten(0, 1)
        attention["output"] = attention["output"] * rates.residual_multiplier
        for name, weight in attention.items():
            found[f"{theirs}.self_attn.{name[0]}_proj.weight"] = weight
        if config.qk_norm:
            for name in ("query", "key"):
                gain = _gain(folded, f"{ours}.attention.{name}_norm", config.head_size)
                found[f"{theirs}.self_attn.{name[0]}_norm.weight"] = gain - shift
        if moe:
            found[f"{theirs}.mlp.gate.weight"] = folded.weights[f"{ours}.mlp.router"]
            experts = zip(
                folded.weights[f"{ours}.mlp.experts_gate_up"], folded.weights[f"{ours}.mlp.experts_down"], strict=True
            )
            for number, (both, down) in enumerate(experts):
                found |= _mlp(f"{theirs}.mlp.experts.{number}", both, down, rates)
        else:
            both, down = (folded.weights[f"{ours}.mlp.{name}"] for name in ("gate_up", "down"))
            found |= _mlp(f"{theirs}.mlp", both, down, rates)
    names = {"llama": "Llama", "qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe", "qwen3_next": "Qwen3Next"}
    described: dict[str, Any] = {
        "model_type": kind,
        "architectures": [f"{names[kind]}ForCausalLM"],
        "vocab_size": config.vocab,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.query_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "attention_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if moe:
        described |= {
            "moe_intermediate_size": hidden // config.top_k,
            "num_experts": config.routed_experts,
            "num_experts_per_tok": config.routed_top_k,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    if gated:
        described["partial_rotary_factor"] = 1.0
        described["rope_parameters"]["partial_rotary_factor"] = 1.0
        described |= {
            "layer_types": ["full_attention"] * config.depth,
            "num_experts": 0,
            "mlp_only_layers": list(range(config.depth)),
        }
    return HuggingFace(config=described, weights={name: tensor.contiguous() for name, tensor in found.items()})


def write_hugging_face(made: HuggingFace, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write `config.json` and `model.safetensors` into a folder, made if need be.

    Args:
        dtype: Of the weights that are written; None leaves theirs.

    Raises:
        OSError: They cannot be written.
    """
    weights = {name: weight.to(dtype or weight.dtype) for name, weight in made.weights.items()}
    name = str(dtype or made.weights["lm_head.weight"].dtype).removeprefix("torch.")
    write_weights(weights, {**made.config, "dtype": name, "torch_dtype": name}, folder)


def write_weights(weights: Mapping[str, Tensor], config: Mapping[str, Any], folder: Path) -> None:
    """Write `model.safetensors`, then `config.json`, each whole or not at all, into a folder, made if need be.

    Raises:
        OSError: They cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described, tensors = folder / "config.json.partial", folder / "model.safetensors.partial"
    try:
        described.write_text(json.dumps(config, indent=2) + "\n")
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()},
            tensors,
            metadata={"format": "pt"},
        )
        tensors.chmod(described.stat().st_mode)  # by the umask, which safetensors does not ask
        tensors.replace(folder / "model.safetensors")
        described.replace(folder / "config.json")
    finally:
        described.unlink(missing_ok=True)
        tensors.unlink(missing_ok=True)


def _check_known(config: ModelConfig) -> None:
    """Refuse what no architecture of transformers has."""
    unknown = {
        "sandwich_norm": config.sandwich_norm,
        "vectors.placement=dnp": config.vectors.placement == "dnp",
        "shared_expert without a gate of its own": config.mlp == "moe" and config.shared_expert,
        "gate=sqrt": config.mlp == "moe" and config.gate == "sqrt",
        "headwise_gate in a mixture": config.mlp == "moe" and config.headwise_gate,
        "a mixture without QK-norm": config.mlp == "moe" and not config.qk_norm,
        "headwise_gate without QK-norm": config.mlp == "dense" and config.headwise_gate and not config.qk_norm,
    }
    for what, there in unknown.items():
        if there:
            raise ValueError(
                f"no architecture of transformers has model.{what}; export the model as it is (--format native), or "
                "train without it"
            )


def _gain(folded: Folded, name: str, width: int) -> Tensor:
    """γ that stays, or 1 where the model has none."""
    gain = folded.weights.get(f"{name}.gain")
    return torch.ones(width, dtype=folded.weights["head"].dtype) if gain is None else gain


def _mlp(name: str, both: Tensor, down: Tensor, rates: Rates) -> dict[str, Tensor]:
    gate, up = both.chunk(2, dim=-2)
    scaled = down * rates.residual_multiplier
    return {f"{name}.gate_proj.weight": gate, f"{name}.up_proj.weight": up, f"{name}.down_proj.weight": scaled}
