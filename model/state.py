"""The whole state of a run as one process would hold it, whatever the layout: what a checkpoint carries.

Tensors stand whole under their parameter's name, so that a run may go on with another layout or number of ranks.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.distributed import World
from model.optimizer import Optimizer, cut_like_its_parameter
from model.sharding import gathered, give_up_gathered, local
from model.transformer import Transformer


@torch.no_grad()
def full_state(model: Transformer, optimizer: Optimizer, world: World) -> dict[str, Any] | None:
    """`model` and `optimizer`, copied to the host of rank 0; None on the other ranks. Every rank must call it.

    Shards are gathered one tensor at a time. Training may go on while the copy is written.

    Raises:
        PeerLost: Another rank is gone.
    """
    layout = optimizer.layout
    give_up_gathered(model, layout)
    parameters = dict(model.named_parameters())
    weights: dict[str, Tensor] = {}
    states: dict[str, dict[str, Tensor]] = {}
    for name, weight in parameters.items():
        whole = gathered(local(weight, layout), weight, layout)
        if world.leads:
            weights[name] = _on_host(whole)
    for name, key, tensor in optimizer.tensors():
        cut = cut_like_its_parameter(key, parameters[name], optimizer.optimizer)
        whole = gathered(tensor, parameters[name], layout) if cut else tensor
        if world.leads:
            states.setdefault(name, {})[key] = _on_host(whole)
    if not world.leads:
        return None
    return {"model": weights, "optimizer": {"steps": optimizer.steps, "parameters": states}}


@torch.no_grad()
def load_state(model: Transformer, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Continue from what `full_state` gave on rank 0, in any layout: each rank takes its part of the whole.

    Raises:
        KeyError: The state belongs to another model or update rule.
    """
    layout = optimizer.layout

    def part(whole: Tensor) -> Tensor:
        rows = layout.piece(len(whole))
        return whole[rows.start : rows.stop]

    give_up_gathered(model, layout)
    parameters = dict(model.named_parameters())
    for name, weight in parameters.items():
        local(weight, layout).copy_(part(state["model"][name]))
    parts = {
        name: {
            key: part(whole) if cut_like_its_parameter(key, parameters[name], optimizer.optimizer) else whole
            for key, whole in some.items()
        }
        for name, some in state["optimizer"]["parameters"].items()
    }
    optimizer.load_state_dict({"steps": state["optimizer"]["steps"], "parameters": parts})


@torch.no_grad()
def member_state(model: Transformer, optimizer: Optimizer, place: int) -> dict[str, Any]:
    """Of a stack, what `full_state` would give of the member at this place, were it trained by itself."""
    weights = {name: _on_host(weight[place]) for name, weight in model.named_parameters()}
    states: dict[str, dict[str, Tensor]] = {}
    for name, key, tensor in optimizer.tensors():
        states.setdefault(name, {})[key] = _on_host(tensor[place])
    return {"model": weights, "optimizer": {"steps": optimizer.steps, "parameters": states}}


@torch.no_grad()
def load_member(model: Transformer, optimizer: Optimizer, place: int, state: Mapping[str, Any]) -> None:
    """Let the member at this place of a stack continue; all members must have made the same number of steps.

    Raises:
        KeyError: The state belongs to another model or update rule.
    """
    for name, weight in model.named_parameters():
        weight[place].copy_(state["model"][name])
    for name, key, tensor in optimizer.tensors():
        tensor[place].copy_(state["optimizer"]["parameters"][name][key])
    optimizer.steps = state["optimizer"]["steps"]


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", copy=True)
