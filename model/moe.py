"""The mixture of experts of HyperP §3.6 (arXiv 2603.28743): top-k routing that drops no token, SqrtGate, shared expert.

The load is balanced by HyperP's eq. 9 over groups of consecutive tokens of the batch (`TrainConfig.aux_sequences`), so
that neither micro-batches nor ranks have a part in the loss:

    balance = E · Σᵢ fᵢ Pᵢ,  fᵢ = share of a group's choices that expert i got,  Pᵢ = its mean probability in the group

with the probabilities of a softmax over all routed experts, before the choice. It is 1 where the load is even. f has no
gradient and the rest is a mean over tokens, so a pass that sees part of a group needs only the group's f beforehand.

Legend: M tokens, D width, E routed experts, k experts of one token, G groups of the batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels.primitives import grouped_linear
from model.config import ModelConfig
from model.mlp import Mlp, swiglu
from model.vectors import Branches, Groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a pass observes beside its logits."""

    group_tokens: int
    """Of each group over which the load is balanced."""
    start: int = 0
    """The place in the global batch of the pass's first token; its tokens are consecutive."""
    load: Tensor | None = None
    """f of every layer and group of the batch, shape (layers, G, E); None where the pass sees whole groups."""
    measured: bool = False
    """Whether the quantities of stability (HyperP §5.1) are taken too."""


class Mixture(nn.Module):
    """One mixture branch, without its pre-norm and residual."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, nn.Parameter],
        prefix: str,
        dtype: torch.dtype,
        layer: int = 0,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.top_k = config.routed_top_k
        self.square_root = config.gate == "sqrt"
        self.scale_shared = config.shared_scale == "always" or (config.shared_scale == "sqrt_gate" and self.square_root)
        self.router = weights[f"{prefix}.router"]
        self.experts_gate_up = weights[f"{prefix}.experts_gate_up"]
        self.experts_down = weights[f"{prefix}.experts_down"]
        self.shared = Mlp(config, weights, f"{prefix}.shared", dtype) if config.shared_expert else None
        self.router_branch = Branches(self, config, weights, prefix, ("router",), None)
        self.branches = Branches(self, config, weights, prefix, ("experts_gate", "experts_up"), dtype)

    def forward(self, x: Tensor, watch: Watch | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Shape (…, D) to the same; with `watch`, the balance and the counts of choices by group and expert.

        Where it is measured, also `router_z`, the mean squared log-sum-exp of the logits, and `probability`, (E,).
        """
        x_MD = x.reshape(-1, x.shape[-1])
        logits_ME = self.logits(x_MD)
        expert_Mk, weight_Mk = self.route(logits_ME)
        # Rows go to their experts sorted, stably, and come back to their tokens: no sum depends on a race.
        order = expert_Mk.flatten().argsort(stable=True)
        counts = expert_Mk.flatten().bincount(minlength=self.router.shape[-2])
        groups = Groups(counts=counts, expert=expert_Mk.flatten()[order])
        hidden = swiglu(self.branches(x_MD[order // self.top_k], self.experts_gate_up, groups))
        y_MkD = grouped_linear(hidden, self.experts_down, counts)[order.argsort()].reshape(*expert_Mk.shape, -1)
        y_MD: Tensor = (y_MkD * weight_Mk.unsqueeze(-1).to(y_MkD.dtype)).sum(dim=-2)
        if self.shared is not None:
            y_MD = y_MD + self.shared(x_MD)
            if self.scale_shared:
                y_MD = y_MD * 0.5**0.5
        return y_MD.reshape(x.shape), {} if watch is None else self._seen(logits_ME, expert_Mk, watch)

    def logits(self, x_MD: Tensor) -> Tensor:
        """Of each routed expert, shape (M, E); float32 or better."""
        return self.router_branch(x_MD, self.router)

    def route(self, logits_ME: Tensor) -> tuple[Tensor, Tensor]:
        """The experts of each token and what multiplies their outputs, shape (M, k) each; float32 or better.

        The k largest logits are taken, ties by the lower index, and only then is a softmax taken over them: the
        probabilities g sum to 1. `sqrt` weighs by √g, so that k uncorrelated outputs of equal size keep that size.
        """
        expert_Mk = logits_ME.argsort(dim=-1, descending=True, stable=True)[:, : self.top_k]
        probability_Mk = logits_ME.gather(-1, expert_Mk).softmax(dim=-1)
        return expert_Mk, (probability_Mk + 1e-30).sqrt() if self.square_root else probability_Mk

    def _seen(self, logits_ME: Tensor, expert_Mk: Tensor, watch: Watch) -> dict[str, Tensor]:
        tokens, experts = logits_ME.shape
        first = watch.start // watch.group_tokens
        groups = -(-(watch.start + tokens) // watch.group_tokens) - first
        group_M = torch.arange(watch.start, watch.start + tokens, device=logits_ME.device) // watch.group_tokens - first
        place_Mk = group_M.unsqueeze(-1) * experts + expert_Mk
        count_GE = place_Mk.flatten().bincount(minlength=groups * experts).view(groups, experts).to(logits_ME.dtype)
        load_GE = (
            count_GE / (watch.group_tokens * self.top_k)
            if watch.load is None
            else watch.load[self.layer, first : first + groups].to(logits_ME.dtype)
        )
        probability_ME = logits_ME.softmax(dim=-1)
        balance = experts * (probability_ME * load_GE.index_select(0, group_M)).sum() / tokens
        seen = {"balance": balance, "count": count_GE}
        if watch.measured:
            seen["router_z"] = logits_ME.logsumexp(dim=-1).square().mean()
            seen["probability"] = probability_ME.mean(dim=0)
        return seen
