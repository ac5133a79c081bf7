"""The columns of a sweep's results and how a law names two of them: known without the libraries that fill them."""

from collections.abc import Mapping

COLUMNS: Mapping[str, str] = {
    "run_id": "identity of the run's scientific configuration",
    "arm": "variant of the sweep",
    "state": "done or diverged",
    "loss": "validation loss after the last step, nats per token; of a diverged run its last training loss",
    "train_loss": "mean training loss over the last 5 % of the steps, nats per token",
    "lr": "base learning rate η₀ of the sweep",
    "lr_peak": "peak rate of the hidden matrices after transfer; laws fit this one",
    "tokens": "training tokens",
    "steps": "optimiser steps",
    "params": "the paper's N: embedding, head and matrices (HyperP §4, arXiv 2603.28743); active ones of a mixture",
    "params_total": "every parameter of the model",
    "flops": "training FLOPs by the paper's count (HyperP §4)",
    "batch_tokens": "tokens per step",
    "seed": "of the data order",
    "width": "model width",
    "depth": "model depth",
    "top_k": "experts per token",
    "sparsity": "experts in the pool over top_k",
    "wall_time_s": "seconds of training",
    "tokens_per_s": "training speed",
    "attempts": "tries it took",
    "world_size": "processes that trained it",
    "stack": "runs trained together with it as one model, itself among them",
    "device": "`cpu`, or the model of the GPU",
    "fingerprint": "hash of the data",
}
"""What every column of a sweep's results means; the sweep's other axes follow under their own names."""


STABILITY_COLUMNS: Mapping[str, str] = {
    "attention_z": "mean squared log-sum-exp of the attention logits",
    "router_z": "mean squared log-sum-exp of the routers' logits",
    "attention_rms": "root mean square of what attention adds to the residual stream",
    "mlp_rms": "root mean square of what MLP or experts add to the residual stream",
    "attention_outliers": "elements of the attention's output beyond five standard deviations, %",
    "mlp_outliers": "elements of the MLP's or experts' output beyond five standard deviations, %",
    "maxvio": "choices of the busiest expert over the mean, minus 1",
    "balance": "load-balancing loss before its weight; 1 where the load is even",
    "grad_norm": "norm of the gradient of a layer, before clipping",
    "update_norm": "norm of what a step adds to a layer",
}
"""Measured at the last step and averaged over layers (`model.stability`; HyperP §5.1, arXiv 2603.28743)."""


def law_sides(law: str) -> tuple[str, str]:
    """Left and right side of a law.

    Raises:
        ValueError: Something else than two columns.

    >>> law_sides("lr_peak ~ tokens")
    ('lr_peak', 'tokens')
    """
    sides = [side.strip() for side in law.split("~")]
    if len(sides) != 2 or not all(sides) or " + " in sides[1]:
        raise ValueError(f"cannot read the law {law!r}; write two columns, such as 'lr_peak ~ tokens'")
    return sides[0], sides[1]


def surface_sides(surface: str) -> tuple[str, str, str]:
    """The loss, the size and the data of a surface.

    Raises:
        ValueError: Something else than one column on the left and two on the right.

    >>> surface_sides("loss ~ params + tokens")
    ('loss', 'params', 'tokens')
    """
    left, tilde, right = surface.partition("~")
    sides = [side.strip() for side in (left, *right.split("+"))]
    words = all(side.replace(".", "_").replace(" ", "_").isidentifier() for side in sides)
    if not tilde or len(sides) != 3 or not words or sides[1] == sides[2]:
        raise ValueError(f"cannot read the surface {surface!r}; write three columns, such as 'loss ~ params + tokens'")
    return sides[0], sides[1], sides[2]
