"""One function per figure, each from values to a `Figure`; the only part that knows matplotlib."""

from sweeper.figures.arms import plot_arms
from sweeper.figures.flops import plot_flops
from sweeper.figures.heat import plot_heat
from sweeper.figures.joint import plot_joint
from sweeper.figures.law import plot_law
from sweeper.figures.lr import plot_lr_sweep
from sweeper.figures.question import FIGURES, NEEDS, asked_by, plot_question
from sweeper.figures.saving import save_figure
from sweeper.figures.sensitivity import plot_sensitivity
from sweeper.figures.stability import plot_stability
from sweeper.figures.style import STYLES, Looks, style_of
from sweeper.figures.surface import plot_surface
from sweeper.figures.text import amount, round_ticks

__all__ = [
    "FIGURES",
    "NEEDS",
    "STYLES",
    "Looks",
    "amount",
    "asked_by",
    "plot_arms",
    "plot_flops",
    "plot_heat",
    "plot_joint",
    "plot_law",
    "plot_lr_sweep",
    "plot_question",
    "plot_sensitivity",
    "plot_stability",
    "plot_surface",
    "round_ticks",
    "save_figure",
    "style_of",
]
