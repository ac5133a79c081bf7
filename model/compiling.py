"""Blocks compiled by torch.compile; the only module that knows it.

One block is compiled, not the model: all blocks share its code, so that a deep model takes no longer to compile, and
what surrounds blocks (embedding, head and loss, the collectives of shards) stays as it is. Only passes that gradients
are taken of are compiled; validation and the measurement of stability take each block as it is written.

The compiler is imported where it is used: it adds up to three seconds to a start.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

from model.config import Execution
from model.devices import why_not_compiled
from model.moe import Mixture
from model.transformer import Block, Transformer


def compile_blocks(model: Transformer, execution: Execution) -> None:
    """Have the blocks of a model that lies where its layout wants it compiled in their next training pass.

    The experts of a mixture are left as they are: how many rows each gets is known on the way only.

    Raises:
        ValueError: This machine has nothing to compile with.
    """
    if why := why_not_compiled(model.cos_TK.device.type):
        raise ValueError(f"execution.compile={execution.compile} cannot be: {why}; set it to off")
    import torch._inductor.config as inductor

    # In this process: those that torch would start for it outlive their use.
    inductor.compile_threads = execution.threads
    disable: Any = torch.compiler.disable
    torch.compiler.reset()  # what earlier runs of this process compiled counts towards torch's limit
    for block in _blocks(model):
        if isinstance(block.mlp, Mixture):
            block.mlp.forward = disable(block.mlp.forward)  # type: ignore[method-assign]
        block.compiled = torch.compile(block.once)


def leave_as_written(model: Transformer) -> None:
    """Take back what `compile_blocks` did."""
    for block in _blocks(model):
        block.compiled = None
        vars(block.mlp).pop("forward", None)


@contextmanager
def as_written(model: Transformer) -> Iterator[None]:
    """Take the blocks as they are written, for a while."""
    compiled = [block.compiled for block in _blocks(model)]
    for block in _blocks(model):
        block.compiled = None
    try:
        yield
    finally:
        for block, once in zip(_blocks(model), compiled, strict=True):
            block.compiled = once


def _blocks(model: Transformer) -> Iterable[Block]:
    return cast(Iterable[Block], model.blocks)
