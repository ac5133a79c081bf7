"""Scale vectors around the linear maps that read a pre-norm (arXiv 2605.26895 §3 and §4).

    standard  y = W (γᵇ ⊙ N(x))              dp  y = γᵃ ⊙ (W (γᵇ ⊙ N(x)))
                                             dnp y = γᵃ ⊙ N(W (γᵇ ⊙ N(x)))

One matrix may hold several branches, such as the gate and the up projection of an MLP, each with vectors of its own.
What multiplies activations may as well multiply the weight, once a pass: `fold`.

Legend: R branches of a matrix, E experts, D width of the input, H width of a branch's output.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels.primitives import grouped_linear, linear, rms_norm
from model.config import ModelConfig
from model.norm import ScaleVector


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """How rows are shared out among experts: they lie sorted by expert."""

    counts: Tensor
    """Rows of each expert, shape (E,)."""
    expert: Tensor
    """The expert of each row, shape (rows,)."""


class Branches:
    """The scale vectors of the branches of one matrix; as parameters they belong to the module that owns the matrix.

    Args:
        owner: Gets the vectors as its submodules `<branch>_in` and `<branch>_out`.
        names: The branches, in the order of the matrix's rows.
        heads: Heads of the output, where N works within each and γᵃ is one head's or all heads' (0: none).
        dtype: Of activations; None takes the weight's.
    """

    def __init__(
        self,
        owner: nn.Module,
        config: ModelConfig,
        weights: Mapping[str, nn.Parameter],
        prefix: str,
        names: Sequence[str],
        dtype: torch.dtype | None,
        heads: int = 0,
    ) -> None:
        table = {side: [ScaleVector(config, weights, f"{prefix}.{name}_{side}") for name in names] for side in SIDES}
        for side, vectors in table.items():
            for name, vector in zip(names, vectors, strict=True):
                if vector.value() is not None:
                    owner.add_module(f"{name}_{side}", vector)
        self.inner, self.outer = (tuple(v for v in table[side] if v.value() is not None) for side in SIDES)
        self.normalised = config.vectors.placement == "dnp" and bool(self.outer)
        self.heads = heads if config.vectors.axis == "head" else 0
        self.eps = config.norm_eps
        self.fold = config.vectors.fold
        self.dtype = dtype

    def __call__(self, x: Tensor, weight: Tensor, groups: Groups | None = None) -> Tensor:
        """The branches' outputs side by side, shape (…, R·H), from the pre-norm's output (…, D).

        Args:
            weight: Shape (R·H, D); of experts (E, R·H, D).
            groups: Of the rows of `x`; experts only.
        """
        dtype = self.dtype or weight.dtype
        if not self.inner and not self.outer:
            return self._product(x.to(dtype), weight, groups)
        inner, outer = _stacked(self.inner), _stacked(self.outer)
        per_row = x.shape[:-1].numel() / (weight.shape[0] if groups else 1)
        folds = self.fold == "always" or (self.fold == "auto" and per_row > weight.shape[-2])
        if inner is not None and folds:
            weight, inner = _on_columns(weight, inner), None
        if outer is not None and folds and not self.normalised:
            weight, outer = self._on_rows(weight, outer), None
        if inner is None:
            y = self._product(x.to(dtype), weight, groups)
        else:
            y = self._apart(x, weight, inner, groups, dtype)
        return y if outer is None else self._after(y, outer, groups).to(dtype)

    def _product(self, x: Tensor, weight: Tensor, groups: Groups | None) -> Tensor:
        return linear(x, weight) if groups is None else grouped_linear(x, weight, groups.counts)

    def _apart(self, x: Tensor, weight: Tensor, inner: Tensor, groups: Groups | None, dtype: torch.dtype) -> Tensor:
        """Each branch on an input of its own; `inner` is (R, D), or (R, E, D)."""
        parts = []
        for gamma, part in zip(inner, weight.chunk(len(inner), dim=-2), strict=True):
            own = gamma[groups.expert] if groups is not None and gamma.dim() > 1 else gamma
            parts.append(self._product((x * own).to(dtype), part.contiguous() if groups else part, groups))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _after(self, y: Tensor, outer: Tensor, groups: Groups | None) -> Tensor:
        """γᵃ ⊙ y or γᵃ ⊙ N(y) in float32 or better; `outer` is (R, H), (R, K) of one head, or (R, E, H)."""
        # Of each row, (rows, R, H), where experts have their own.
        gamma = outer[:, groups.expert].transpose(0, 1) if groups is not None and outer.dim() > 2 else outer
        parts = self.heads or len(outer)
        y_split = y.view(*y.shape[:-1], parts, -1)
        y_split = rms_norm(y_split, None, self.eps) if self.normalised else y_split
        if self.heads and gamma.shape[-1] != y_split.shape[-1]:
            gamma = gamma.view(self.heads, -1)
        return (y_split * gamma).flatten(-2)

    def _on_rows(self, weight: Tensor, outer: Tensor) -> Tensor:
        """The weight with γᵃ on its rows."""
        if outer.dim() > 2:
            rows = outer.transpose(0, 1).flatten(1)  # (E, R·H)
        else:
            rows = outer.flatten()
            rows = rows.repeat(weight.shape[-2] // rows.numel())  # one head's, for all
        return weight * rows.unsqueeze(-1)


SIDES = ("in", "out")


def _stacked(vectors: Sequence[ScaleVector]) -> Tensor | None:
    """Of all branches, shape (R, …, d)."""
    values = [vector.value() for vector in vectors]
    return torch.stack([value for value in values if value is not None]) if values else None


def _on_columns(weight: Tensor, inner: Tensor) -> Tensor:
    """The weight with γᵇ on the columns of each branch's rows; `inner` is (R, D), or (R, E, D)."""
    split = weight.view(*weight.shape[:-2], len(inner), -1, weight.shape[-1])  # (…, R, H, D)
    columns = inner.transpose(0, 1).unsqueeze(-2) if inner.dim() > 2 else inner.unsqueeze(-2)
    folded: Tensor = split * columns
    return folded.view(weight.shape)
