"""What HyperP watches a training by (§5.1, arXiv 2603.28743), taken before a step from the first part of its batch.

The part is the one over which the load of experts is balanced (`TrainConfig.aux_sequences`), so that no measure depends
on micro-batches or ranks. By layer, and averaged over the layers:

- `attention_z`: mean over sequences, heads and queries of the squared log-sum-exp of the scaled causal logits;
- `router_z`: mean over tokens of the squared log-sum-exp of the logits of all routed experts;
- `attention_rms`, `mlp_rms`: √mean h² of a branch's output h after the residual multiplier;
- `attention_outliers`, `mlp_outliers`: 100 · share of elements with |h − mean| > 5 std, over the features of a token;
- `maxvio`: (max c − mean c) / mean c over the choices c that each routed expert got;
- `balance`: the load-balancing loss before its weight, 1 where the load is even;
- `grad_norm`: Frobenius norm of the gradient before clipping;
- `update_norm`: Frobenius norm of what the step adds to the weights.

The last two are there for `embedding`, `head` and `final_norm` as well, which no average contains.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from model.config import TrainConfig
from model.data import Data, on_device
from model.distributed import World, add_over_ranks, exchanging
from model.moe import Watch
from model.sharding import Layout, give_up_gathered, local
from model.transformer import Transformer

PREFIX = "stability/"
"""Of its metrics in a run's record."""


@torch.no_grad()
def forward_measures(
    model: Transformer, data: Data, config: TrainConfig, layout: Layout, *, step: int, per_batch: int
) -> dict[str, Tensor]:
    """This rank's part of each mean over the sample of a step's batch, stacked over layers; every rank must call it.

    Args:
        model: Before the step.
        data: Of the run.
        config: Of the run.
        layout: Of the model; the ranks share the sample.
        step: From 0.
        per_batch: Sequences of one forward pass.
    """
    world, sequences, context = layout.world, config.aux_sequences, config.model.context
    start, stop = sequences * world.rank // world.size, sequences * (world.rank + 1) // world.size
    found: dict[str, Tensor] = {}
    # Ranks that share a copy of the model gather it together: who has fewer passes makes another one, uncounted.
    for turn in range(math.ceil(math.ceil(sequences / world.size) / per_batch)):
        first = start + turn * per_batch
        rows = max(0, min(per_batch, stop - first))
        inputs_BT = (
            data.batch(step, config.batch_sequences, first, first + rows)[0]
            if rows
            else torch.zeros(1, context, dtype=torch.long)
        )
        watch = Watch(group_tokens=sequences * context, start=first * context if rows else 0, measured=True)
        with exchanging(world):
            _, seen = model(on_device(inputs_BT, world.device), watch)
        for name, value in seen.items():
            part = value.double() * ((rows > 0) if name == "count" else rows / sequences)
            found[name] = found[name] + part if name in found else part
    give_up_gathered(model, layout)
    found.pop("balance", None)  # of parts of a group it is no mean
    return found


@torch.no_grad()
def gradient_squares(model: Transformer, layout: Layout, *, stacked: bool = False) -> dict[str, Tensor]:
    """Squared norm of what this rank holds of each parameter's gradient, in float64: 0-d, of a stack (R,)."""
    return {
        name: local(weight.grad, layout).square().flatten(int(stacked)).sum(dim=-1).double()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


def gather(
    means: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    updates: Mapping[str, Tensor],
    config: TrainConfig,
    layout: Layout,
) -> dict[str, Tensor]:
    """All measures of a step over all ranks, still on the device: one collective, and the same on every rank.

    Those of a stack have the members as their last dimension.

    Raises:
        PeerLost: Another rank is gone.
    """
    layers = _layers(config)
    parts = dict(means)
    for name, squares in (("grad", gradients), ("update", updates)):
        none = torch.zeros((), dtype=torch.float64, device=layout.world.device)
        of_layer = dict.fromkeys(layers, torch.zeros_like(next(iter(squares.values()), none)))
        for parameter, square in squares.items():
            of_layer[_layer(parameter)] = of_layer[_layer(parameter)] + square
        # Ranks that hold copies have the same squares; their sum counts each as often as there are copies.
        parts[name] = torch.stack([of_layer[layer] for layer in layers]) / layout.copies
    flat = torch.cat([part.flatten() for part in parts.values()])
    add_over_ranks(flat, layout.world)
    sums = torch.split(flat, [part.numel() for part in parts.values()])
    return {name: total.view_as(part) for (name, part), total in zip(parts.items(), sums, strict=True)}


def rows(measured: Mapping[str, Tensor], config: TrainConfig) -> dict[str, float]:
    """The metrics by the names of `metrics.jsonl`: `stability/<metric>` and `stability/<metric>/<layer>`."""
    depth = config.model.depth
    found: dict[str, list[float]] = {}
    for name, value in measured.items():
        if name in ("grad", "update"):
            found[f"{name}_norm"] = value.sqrt().tolist()
        elif name.endswith("_square"):
            found[name.replace("_square", "_rms")] = value.sqrt().tolist()
        elif name == "count":
            count = value.flatten(1)  # one group: (layers, experts)
            found["maxvio"] = (count.amax(1) / count.mean(1) - 1).tolist()
            share = count / count.sum(1, keepdim=True)
            found["balance"] = (count.shape[1] * (share * measured["probability"]).sum(1)).tolist()
        elif name != "probability":
            found[name] = value.tolist()
    row = {f"{PREFIX}{metric}": math.fsum(values[:depth]) / depth for metric, values in found.items()}
    for metric, values in found.items():
        row |= {f"{PREFIX}{metric}/{layer}": value for layer, value in zip(_layers(config), values, strict=False)}
    return row


def averages(row: Mapping[str, float]) -> dict[str, float]:
    """The averages over layers among a row's metrics, by metric."""
    names = (name for name in row if name.startswith(PREFIX) and name.count("/") == 1)
    return {name.removeprefix(PREFIX): row[name] for name in names}


def expert_load(
    model: Transformer,
    data: Data,
    config: TrainConfig,
    world: World,
    *,
    step: int,
    micro_batches: Iterable[range],
) -> Tensor:
    """The share of choices that each expert gets in each group of a step's batch, shape (layers, groups, experts).

    A forward pass over the whole batch; it is needed where a pass of training sees parts of groups only.

    Raises:
        PeerLost: Another rank is gone.
    """
    tokens, context = config.aux_sequences * config.model.context, config.model.context
    groups = config.batch_sequences // config.aux_sequences
    total = torch.zeros(
        config.model.depth, groups, config.model.routed_experts, dtype=torch.float64, device=world.device
    )
    with torch.no_grad():
        for rows in micro_batches:
            inputs_BT, _ = data.batch(step, config.batch_sequences, rows.start, rows.stop)
            watch = Watch(group_tokens=tokens, start=rows.start * context)
            with exchanging(world):
                _, seen = model(on_device(inputs_BT, world.device), watch)
            first = rows.start // config.aux_sequences
            total[:, first : first + seen["count"].shape[1]] += seen["count"]
    add_over_ranks(total, world)
    return total / (tokens * config.model.routed_top_k)


def _layers(config: TrainConfig) -> tuple[str, ...]:
    return (*(str(layer) for layer in range(config.model.depth)), "embedding", "head", "final_norm")


def _layer(parameter: str) -> str:
    parts = parameter.split(".")
    return parts[1] if parts[0] == "blocks" else parts[0]
