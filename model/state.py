"""The whole state of a run as one process would hold it, whatever the layout: what a checkpoint carries.

Tensors stand whole under their parameter's name, so that a run may go on with another layout or number of ranks.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from model.distributed import World
from model.optimizer import Optimizer


def full_state(model: nn.Module, optimizer: Optimizer, world: World) -> dict[str, Any] | None:
    """`model` and `optimizer`, copied to the host of rank 0; None on the other ranks. Every rank must call it.

    Training may go on while the copy is written.
    """
    if not world.leads:
        return None
    weights = {name: _on_host(weight) for name, weight in model.state_dict().items()}
    return {"model": weights, "optimizer": optimizer.state_dict()}


def load_state(model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Continue from what `full_state` gave on rank 0, each rank with its part; every rank has read the whole.

    Raises:
        KeyError: The state belongs to another model or update rule.
    """
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
