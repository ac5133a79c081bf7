"""The mixture of experts of HyperP §3.6 (arXiv 2603.28743): top-k routing that drops no token, SqrtGate, shared expert.

The load-balancing loss (HyperP eq. 9) is not part of this version: without it a router may favour few experts.

Legend: M tokens, D width, E routed experts, k experts of one token.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from kernels.primitives import grouped_linear, linear
from model.config import ModelConfig
from model.mlp import Mlp, swiglu


class Mixture(nn.Module):
    """One mixture branch, without its pre-norm and residual."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, nn.Parameter], prefix: str) -> None:
        super().__init__()
        self.top_k = config.routed_top_k
        self.square_root = config.gate == "sqrt"
        self.router = weights[f"{prefix}.router"]
        self.experts_gate_up = weights[f"{prefix}.experts_gate_up"]
        self.experts_down = weights[f"{prefix}.experts_down"]
        self.shared = Mlp(weights, f"{prefix}.shared") if config.shared_expert else None

    def forward(self, x: Tensor) -> Tensor:
        """Shape (…, D) to the same."""
        x_MD = x.reshape(-1, x.shape[-1])
        expert_Mk, weight_Mk = self.route(x_MD)
        # Rows go to their experts sorted, stably, and come back to their tokens: no sum depends on a race.
        order = expert_Mk.flatten().argsort(stable=True)
        # The plain grouped product splits rows by Python numbers: one synchronisation with the host per layer.
        counts = expert_Mk.flatten().bincount(minlength=self.router.shape[-2]).tolist()
        hidden = swiglu(grouped_linear(x_MD[order // self.top_k], self.experts_gate_up, counts))
        y_MkD = grouped_linear(hidden, self.experts_down, counts)[order.argsort()].reshape(*expert_Mk.shape, -1)
        y_MD: Tensor = (y_MkD * weight_Mk.unsqueeze(-1).to(y_MkD.dtype)).sum(dim=-2)
        if self.shared is not None:
            y_MD = y_MD + self.shared(x_MD)
            if self.square_root:
                y_MD = y_MD * 0.5**0.5
        return y_MD.reshape(x.shape)

    def route(self, x_MD: Tensor) -> tuple[Tensor, Tensor]:
        """The experts of each token and what multiplies their outputs, shape (M, k) each; float32 or better.

        The k largest logits are taken, ties by the lower index, and only then is a softmax taken over them: the
        probabilities g sum to 1. `sqrt` weighs by √g, so that k uncorrelated outputs of equal size keep that size.
        """
        logits_ME = linear(x_MD.to(self.router.dtype), self.router)
        expert_Mk = logits_ME.argsort(dim=-1, descending=True, stable=True)[:, : self.top_k]
        probability_Mk = logits_ME.gather(-1, expert_Mk).softmax(dim=-1)
        return expert_Mk, (probability_Mk + 1e-30).sqrt() if self.square_root else probability_Mk
