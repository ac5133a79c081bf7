"""Transfer rules: the plain numbers that carry one base learning rate over width, depth, tokens and batch.

HyperP's rule is spec'd in arXiv 2603.28743 (table 1, eq. 8, theorems 2 and 3); the baselines in its §4.5. Every
factor is a function of its own with a switch in `Transfer`, so that a sweep that measures a law runs without it.
"""

import math
from dataclasses import dataclass
from typing import Literal

from model.config import Rates, check, positive

TOKEN_EXPONENT = -0.32
"""η* ∝ T^−0.320 (HyperP eq. 8, fitted to table 4)."""
BATCH_EXPONENT = 0.5
"""η ∝ √B, the rule of the authors' code; table 8 fits 0.558."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Which factors multiply the base rate, and the reference shape at which all of them are 1.

    The defaults are HyperP's reference (d₀ = 8, T₀ = 10.4e9, B₀ = 2²¹).
    """

    rule: Literal["hyperp", "muon_mupp", "none"] = "hyperp"
    depth_reference: int = 8
    tokens_reference: int = 10_400_000_000
    batch_reference: int = 2_097_152
    tokens: bool = True
    """η ∝ T^token_exponent."""
    depth: bool = True
    """η ∝ d^−1/2; of `muon_mupp` also what multiplies logits and decay."""
    batch: bool = True
    """η ∝ √B."""
    residual: bool = True
    """Residual branches times 1/√(2d)."""
    token_exponent: float = TOKEN_EXPONENT
    batch_exponent: float = BATCH_EXPONENT
    token_scope: Literal["all", "hidden"] = "all"
    """Which rates T^−0.32 multiplies: all of them (the authors' code) or the hidden matrices' (the paper's table 1)."""
    vector_ratio: float = 1.0
    """Rate of vectors (norm gains) over the rate of the other AdamW parameters."""

    def __post_init__(self) -> None:
        positive(
            "the transfer's",
            depth_reference=self.depth_reference,
            tokens_reference=self.tokens_reference,
            batch_reference=self.batch_reference,
            vector_ratio=self.vector_ratio,
        )


def token_factor(tokens: float, reference: float, exponent: float = TOKEN_EXPONENT) -> float:
    """(T/T₀)^−0.32 (HyperP eq. 8).

    Raises:
        ValueError: A count that is not positive, or a factor beyond the floats.
    """
    return _power("tokens", tokens, reference, exponent)


def depth_factor(depth: int, reference: int) -> float:
    """√(d₀/d) (HyperP theorem 3).

    Raises:
        ValueError: A depth that is not positive.
    """
    check(depth > 0, f"depth must be positive, got {depth}")
    return math.sqrt(reference / depth)


def batch_factor(batch_tokens: float, reference: float, exponent: float = BATCH_EXPONENT) -> float:
    """√(B/B₀) (HyperP's code; §4.3 fits B^0.558).

    Raises:
        ValueError: As `token_factor`.
    """
    return _power("batch_tokens", batch_tokens, reference, exponent)


def _power(name: str, value: float, reference: float, exponent: float) -> float:
    check(value > 0, f"{name} must be positive, got {value}")
    try:
        return float((value / reference) ** exponent)
    except OverflowError as error:
        text = f"({name} {value:g} / {reference:g})^{exponent:g}"
        raise ValueError(f"the transfer factor {text} is beyond 1e308; mend the exponent or the reference") from error


def residual_multiplier(depth: int) -> float:
    """1/√(2d), on both branches of every layer (HyperP theorem 3).

    Raises:
        ValueError: A depth that is not positive.
    """
    check(depth > 0, f"depth must be positive, got {depth}")
    return 1 / math.sqrt(2 * depth)


def rates(
    transfer: Transfer, *, lr: float, depth: int, tokens: float, batch_tokens: float, weight_decay: float = 0.0
) -> Rates:
    """Peak rates by role, multipliers and decay of one run, from the base rate `lr` (η₀) and decay λ.

    `hyperp`:    η₀ · √(B/B₀) · √(d₀/d) · (T/T₀)^−0.32 for every role, residual 1/√(2d), no decay on the sphere.
    `muon_mupp`: η₀ · √(d₀/d), no token factor; residual 1/√(2d), logits × d₀/d; decay λ·d₀/d per step on matrices,
                 independent of the rate (HyperP §4.5, table 1).
    `none`:      η₀ everywhere, multipliers 1; decay λ per step on matrices.

    A rule leaves out factors that its switches turn off; it has no others.

    Raises:
        ValueError: A rate or size that is not positive, or a peak rate beyond the floats.
    """
    check(0 < lr < math.inf, f"lr must be positive, got {lr}")
    if transfer.rule == "none":
        return Rates(hidden=lr, head=lr, embedding=lr, vector=lr * transfer.vector_ratio, weight_decay=weight_decay)
    shape = lr
    if transfer.depth:
        shape *= depth_factor(depth, transfer.depth_reference)
    residual = residual_multiplier(depth) if transfer.residual else 1.0
    if transfer.rule == "muon_mupp":
        check(depth > 0, f"depth must be positive, got {depth}")
        ratio = transfer.depth_reference / depth if transfer.depth else 1.0
        return Rates(
            hidden=shape,
            head=shape,
            embedding=shape,
            vector=shape * transfer.vector_ratio,
            residual_multiplier=residual,
            logit_multiplier=ratio,
            weight_decay=weight_decay * ratio,
        )
    if transfer.batch:
        shape *= batch_factor(batch_tokens, transfer.batch_reference, transfer.batch_exponent)
    full = shape
    if transfer.tokens:
        full *= token_factor(tokens, transfer.tokens_reference, transfer.token_exponent)
    others = full if transfer.token_scope == "all" else shape
    return Rates(
        hidden=full,
        head=others,
        embedding=others,
        vector=others * transfer.vector_ratio,
        residual_multiplier=residual,
        weight_decay=weight_decay,
    )


def predicted_lr(transfer: Transfer, *, lr: float, depth: int, tokens: float, batch_tokens: float) -> float:
    """The base rate whose peak is HyperP's prediction, whatever factors the sweep itself applies.

    With every factor on it is `lr`; in a sweep that measures the token law (`tokens=False`) it is lr·(T/T₀)^−0.32,
    so that `lr: around(predicted_lr, 1.4, 5)` brackets the optimum at every size.

    Raises:
        ValueError: As `rates`.
    """
    everything = Transfer(
        depth_reference=transfer.depth_reference,
        tokens_reference=transfer.tokens_reference,
        batch_reference=transfer.batch_reference,
        token_exponent=transfer.token_exponent,
        batch_exponent=transfer.batch_exponent,
    )
    wanted = rates(everything, lr=lr, depth=depth, tokens=tokens, batch_tokens=batch_tokens).hidden
    applied = rates(transfer, lr=lr, depth=depth, tokens=tokens, batch_tokens=batch_tokens).hidden
    return lr * wanted / applied
