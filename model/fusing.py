"""Which runs can be trained together as one stack of members: those that differ in rates, weight decay and seeds only.

A stack is one model whose weights, activations and losses have a dimension more. Its matrix products are batched: of
small models, where most of a step is the start of operations, several members cost little more than one.
"""

from dataclasses import replace

from model.config import ModelConfig, Rates, Seeds, TrainConfig


def stackable(model: ModelConfig) -> bool:
    """Whether members of this model can be stacked: neither experts, nor scale vectors around the linear maps."""
    return model.mlp == "dense" and not model.vectors.hetero and model.vectors.placement == "standard"


def stack_key(train: TrainConfig) -> TrainConfig | None:
    """What members of one stack have in common: equal keys may be trained together; None: this run is trained alone.

    Everything but the peak rates, the weight decay and the seeds. Multipliers of the residual stream and the logits
    belong to the model.
    """
    if not stackable(train.model):
        return None
    common = Rates(
        hidden=1.0,
        head=1.0,
        embedding=1.0,
        vector=1.0,
        residual_multiplier=train.rates.residual_multiplier,
        logit_multiplier=train.rates.logit_multiplier,
    )
    optimizer = replace(train.optimizer, weight_decay=0.0)
    return replace(train, rates=common, seed=Seeds(), optimizer=optimizer)
