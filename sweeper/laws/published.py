"""Published results as data: optima, learning-rate sweeps, scaling curves and sensitivities, each with its table.

They are facts of their papers, at their papers' scale: a figure draws them behind ours, a test reproduces the fits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sweeper.laws.loss import LossCurve
from sweeper.laws.power import HYPERP_BATCH, HYPERP_TOKENS, PowerLaw


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedOptima:
    """Optimal peak learning rates along one axis."""

    title: str
    setting: str
    """What was held constant."""
    axis: str
    """Column of x."""
    x: tuple[float, ...]
    lr: tuple[float, ...]
    loss: tuple[float, ...]
    """At the optimum, nats per token."""
    law: PowerLaw | None = None
    """The paper's own fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSweep:
    """Loss against learning rate at one value of an axis."""

    title: str
    setting: str
    axis: str
    x: float
    lr: tuple[float, ...]
    loss: tuple[float, ...]
    """Nats per token."""
    rates: tuple[str, ...] = ("lr", "lr_peak")
    """Whether `lr` is the base rate, the peak rate or, where a rule has no factor for it, both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCurve:
    """Loss of one arm against compute, with the paper's fit."""

    title: str
    arm: str
    flops: tuple[float, ...]
    loss: tuple[float, ...]
    """Nats per token."""
    curve: LossCurve
    """With the digits that the paper prints: too few to compute with."""
    leverage: tuple[float, ...] = ()
    """Over the paper's baseline at its budgets: the arm's own fit inverted at the baseline's loss; empty for the
    baseline itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSensitivity:
    """Mean relative error of the optimum of fewer learning rates against that of all."""

    title: str
    group: str
    rates: tuple[int, ...]
    lr_error: tuple[float, ...]
    loss_error: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTable:
    """Numbers of a paper as rows, to be read beside ours: optima of arms, readings of a figure."""

    title: str
    setting: str
    columns: tuple[str, ...]
    rows: tuple[tuple[float | str, ...], ...]
    beside: tuple[str, ...]
    """The columns, arms and figures of a question that it belongs to, any of them."""
    along: str = ""
    """The axis that the question must go along as well, if any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """What one paper reports."""

    title: str
    source: str
    optima: tuple[PublishedOptima, ...]
    sweeps: tuple[PublishedSweep, ...]
    curves: tuple[PublishedCurve, ...]
    sensitivity: tuple[PublishedSensitivity, ...]
    tables: tuple[PublishedTable, ...] = ()


DENSE_8 = "dense, d = 8, 10.4B tokens"

_OPTIMUM = ("arm", "lr_peak", "loss")

HYPERP_TABLE_2 = PublishedTable(
    title="HyperP table 2",
    setting=DENSE_8,
    columns=("arm", "weight_decay", "lr_peak", "loss"),
    rows=(("muon", 1e-3, 0.0222, 2.479), ("muon", 4e-3, "not given", 2.500), ("muonh", 0.0, 0.0155, 2.475)),
    beside=("weight_decay",),
)
"""Muon with the best decay of its grid and with one four times as large, and MuonH without: vertices of parabolas."""

HYPERP_TABLE_3 = PublishedTable(
    title="HyperP table 3",
    setting="MoE, S = 8, k = 4, d = 8, 10.4B tokens",
    columns=("aux_weight", "lr_peak", "loss", "max_vio"),
    rows=((1e-3, 0.012, 2.334, 0.848), (1e-2, 0.012, 2.336, 0.132), (1e-1, 0.012, 2.332, 0.086)),
    beside=("aux_weight",),
)
"""The best rate of the grid of table 9 per weight of the load-balancing loss, with the imbalance that remains."""

HYPERP_TABLE_4 = PublishedOptima(
    title="HyperP table 4",
    setting="dense, d = 8",
    axis="tokens",
    x=(10.4e9, 20.8e9, 41.6e9, 83.2e9, 166.4e9),
    lr=(0.01515, 0.01208, 0.00958, 0.00772, 0.00635),
    loss=(2.4741, 2.4189, 2.3773, 2.3456, 2.3214),
    law=HYPERP_TOKENS,
)
"""MuonH against training tokens: eight rates from 0.004 to 0.018 per budget, vertex of a parabola."""

HYPERP_TABLE_8 = PublishedOptima(
    title="HyperP table 8",
    setting=DENSE_8,
    axis="batch_tokens",
    x=(262_144, 524_288, 1_048_576, 2_097_152),
    lr=(0.00504, 0.00706, 0.01056, 0.01562),
    loss=(2.4711, 2.4697, 2.4700, 2.4741),
    law=HYPERP_BATCH,
)
"""MuonH against the tokens of a batch."""

HYPERP_TABLE_10 = PublishedOptima(
    title="HyperP table 10",
    setting="MoE, k = 4, d = 8, 10.4B tokens",
    axis="sparsity",
    x=(1, 2, 4, 8, 16, 32),
    lr=(0.0163, 0.0162, 0.0145, 0.0139, 0.0124, 0.0115),
    loss=(2.4766, 2.4236, 2.3705, 2.3262, 2.2861, 2.2529),
)
"""Against the sparsity of a mixture of experts, S = all over active experts."""

_TOP_K = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)

HYPERP_TABLE_11 = (
    PublishedOptima(
        title="HyperP table 11",
        setting="MoE, S = 8, without SqrtGate",
        axis="top_k",
        x=_TOP_K,
        lr=(0.0140, 0.0132, 0.0137, 0.0126, 0.0127, 0.0122),
        loss=(2.4306, 2.3263, 2.3220, 2.3178, 2.3186, 2.3244),
    ),
    PublishedOptima(
        title="HyperP table 11",
        setting="MoE, S = 8, with SqrtGate",
        axis="top_k",
        x=_TOP_K,
        lr=(0.0139, 0.0139, 0.0135, 0.0129, 0.0131, 0.0128),
        loss=(2.4131, 2.3262, 2.3156, 2.3111, 2.3096, 2.3154),
    ),
)
"""Against the number of active experts, with a shared expert, d = 8, 10.4B tokens."""

_DEPTH_RATES = (0.002, 0.004, 0.006, 0.008, 0.010, 0.012, 0.014, 0.016, 0.018, 0.020)


def _depth_sweeps(
    title: str, setting: str, losses: Mapping[int, tuple[float, ...]], rates: tuple[str, ...]
) -> tuple[PublishedSweep, ...]:
    return tuple(
        PublishedSweep(title=title, setting=setting, axis="depth", x=depth, lr=_DEPTH_RATES, loss=loss, rates=rates)
        for depth, loss in losses.items()
    )


HYPERP_TABLE_5 = _depth_sweeps(
    "HyperP table 5",
    "dense, 10.4B tokens, without Depth-μP",
    {
        8: (2.684, 2.569, 2.521, 2.498, 2.485, 2.474, 2.470, 2.469, 2.473, 2.492),
        12: (2.523, 2.405, 2.355, 2.328, 2.315, 2.308, 2.309, 2.319, 2.351, 2.386),
        16: (2.426, 2.307, 2.256, 2.230, 2.220, 2.225, 2.251, 2.288, 2.299, 2.315),
        20: (2.354, 2.235, 2.189, 2.166, 2.169, 2.191, 2.218, 2.235, 2.246, 2.264),
        24: (2.300, 2.183, 2.140, 2.126, 2.142, 2.165, 2.184, 2.196, 2.212, 2.221),
    },
    rates=("lr", "lr_peak"),
)
"""Loss against the base rate per depth, residual branches and rate not scaled with depth."""

HYPERP_TABLE_6 = _depth_sweeps(
    "HyperP table 6",
    "dense, 10.4B tokens, with Depth-μP",
    {
        8: (2.682, 2.568, 2.520, 2.496, 2.484, 2.476, 2.473, 2.474, 2.477, 2.479),
        12: (2.568, 2.437, 2.377, 2.347, 2.331, 2.319, 2.316, 2.315, 2.317, 2.321),
        16: (2.495, 2.359, 2.297, 2.264, 2.245, 2.235, 2.229, 2.225, 2.225, 2.234),
        20: (2.445, 2.309, 2.246, 2.211, 2.188, 2.177, 2.171, 2.169, 2.172, 2.188),
        24: (2.413, 2.272, 2.208, 2.172, 2.150, 2.137, 2.132, 2.132, 2.137, 2.152),
    },
    rates=("lr",),
)
"""Loss against the base rate per depth, branches times 1/√(2d) and rate ∝ 1/√d."""

_AUX_RATES = (0.004, 0.008, 0.010, 0.012, 0.020)

HYPERP_TABLE_9 = tuple(
    PublishedSweep(
        title="HyperP table 9",
        setting="MoE, S = 8, k = 4, d = 8, 10.4B tokens",
        axis="aux_weight",
        x=weight,
        lr=_AUX_RATES,
        loss=loss,
    )
    for weight, loss in (
        (1e-3, (2.427, 2.350, 2.340, 2.334, 2.349)),
        (1e-2, (2.431, 2.354, 2.340, 2.336, 2.346)),
        (1e-1, (2.427, 2.350, 2.337, 2.332, 2.346)),
    )
)
"""Loss against the rate per weight of the load-balancing loss."""

_LADDER_FLOPS = (2.1363e19, 1.4908e20, 6.5907e20, 2.1863e21, 5.9614e21)

HYPERP_TABLE_12 = (
    PublishedCurve(
        title="HyperP table 12",
        arm="Muon",
        flops=_LADDER_FLOPS,
        loss=(2.4777, 2.2257, 2.0671, 1.9591, 1.8785),
        curve=LossCurve(A=2.24e2, b=0.12, E=1.23),
    ),
    PublishedCurve(
        title="HyperP table 12",
        arm="MuonH + HyperP",
        flops=_LADDER_FLOPS,
        loss=(2.4804, 2.2192, 2.0526, 1.9311, 1.8365),
        curve=LossCurve(A=8.59e1, b=0.09, E=0.85),
        leverage=(0.99, 1.04, 1.16, 1.35, 1.58),
    ),
    PublishedCurve(
        title="HyperP table 12",
        arm="MuonH",
        flops=_LADDER_FLOPS,
        loss=(2.4845, 2.2099, 2.0500, 1.9558, 1.9015),
        curve=LossCurve(A=6.67e3, b=0.20, E=1.62),
        leverage=(0.96, 1.19, 1.17, 0.99, 0.70),
    ),
)
"""Dense models of depth 8 to 24 at 50 tokens per parameter; fits of figure 9, compute leverage of table 13. FLOPs are
6N + 12,582,912·d² per token, N with embedding and head."""


HYPERP_FIGURE_9 = PublishedCurve(
    title="HyperP figure 9",
    arm="MuonH + HyperP, MoE",
    flops=_LADDER_FLOPS[:4],
    loss=(2.322, 2.083, 1.929, 1.818),
    curve=LossCurve(A=8.76e1, b=0.09, E=0.87),
    leverage=(3.03, 3.32, 3.80, 4.52),
)
"""The mixture S = 8, k = 8 of depth 8 to 20, which no table holds: losses read from the plot (±0.0004), its printed
fit, leverages from both."""

HYPERP_FIGURE_10 = PublishedTable(
    title="HyperP figure 10",
    setting="MoE, S = 8, k = 8, rate 0.01",
    columns=("metric", "depth 8", "depth 20"),
    rows=(
        ("attention Z, plateau", "200 to 220", "200 to 220"),
        ("router Z, peak", 56.0, 33.0),
        ("output RMS and outliers", "higher", "lower"),
    ),
    beside=("stability",),
    along="depth",
)
"""Measures of stability over training, read from the plot."""

HYPERP_TABLE_15 = PublishedTable(
    title="HyperP table 15",
    setting=DENSE_8,
    columns=_OPTIMUM,
    rows=(("baseline", 0.0149, 2.4960), ("qk_norm", 0.0151, 2.4823), ("ga_qk_norm", 0.0158, 2.4727)),
    beside=("qk_norm", "ga_qk_norm"),
)
"""Without either, with QK-norm, with QK-norm and gated attention, each at the vertex of its parabola."""

HYPERP_TABLE_16 = PublishedTable(
    title="HyperP table 16",
    setting="MoE, S = 8, k = 8, d = 8, 10.4B tokens",
    columns=_OPTIMUM,
    rows=(("moe_shared", 0.0137, 2.3215), ("moe_sqrt", 0.0135, 2.3210), ("moe_shared_sqrt", 0.0135, 2.3154)),
    beside=("moe_shared", "moe_sqrt", "moe_shared_sqrt", "shared_sqrt"),
)
"""A shared expert, SqrtGate, and both, each at the vertex of its parabola."""


def _sensitivity(group: str, lr_error: tuple[float, ...], loss_error: tuple[float, ...]) -> PublishedSensitivity:
    return PublishedSensitivity(
        title="HyperP table 14",
        group=group,
        rates=(3, 4, 5, 6, 7),
        lr_error=tuple(round(value / 100, 6) for value in lr_error),
        loss_error=tuple(round(value / 100, 6) for value in loss_error),
    )


HYPERP_TABLE_14 = (
    _sensitivity("10.4B tokens", (5.87, 5.08, 4.09, 2.88, 1.55), (0.07, 0.05, 0.04, 0.03, 0.01)),
    _sensitivity("20.8B tokens", (3.68, 2.01, 1.46, 1.00, 0.53), (0.04, 0.02, 0.01, 0.01, 0.01)),
    _sensitivity("41.6B tokens", (4.27, 2.55, 1.58, 0.95, 0.46), (0.03, 0.02, 0.01, 0.01, 0.01)),
    _sensitivity("83.2B tokens", (5.43, 3.06, 1.88, 1.12, 0.54), (0.05, 0.02, 0.02, 0.01, 0.01)),
    _sensitivity("166.4B tokens", (8.07, 1.97, 0.88, 0.48, 0.28), (0.14, 0.02, 0.01, 0.01, 0.00)),
)
"""All subsets of n of the eight rates of table 4, quadratic fits; printed in percent with two digits."""

HYPERP = Paper(
    title="HyperP",
    source="arXiv 2603.28743, CC BY 4.0",
    optima=(HYPERP_TABLE_4, HYPERP_TABLE_8, HYPERP_TABLE_10, *HYPERP_TABLE_11),
    sweeps=(*HYPERP_TABLE_5, *HYPERP_TABLE_6, *HYPERP_TABLE_9),
    curves=(*HYPERP_TABLE_12, HYPERP_FIGURE_9),
    sensitivity=HYPERP_TABLE_14,
    tables=(HYPERP_TABLE_2, HYPERP_TABLE_3, HYPERP_FIGURE_10, HYPERP_TABLE_15, HYPERP_TABLE_16),
)

PAPERS: Mapping[str, Paper] = {"hyperp": HYPERP}
"""By the names of `sweeper.laws.power.REFERENCES`: what a question's `reference` draws behind ours."""
