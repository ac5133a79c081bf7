"""The public names of the library: what `sweeper.NAME` finds on its first use. TOUR.md walks through them."""

from sweeper.analysis import (
    FitReport,
    SuggestedRuns,
    curve_points,
    file_question,
    fit_question,
    predict_question,
    suggest_question,
)
from sweeper.config import load_sweep
from sweeper.errors import FitError, SweeperError, TableError
from sweeper.figures import (
    plot_arms,
    plot_flops,
    plot_heat,
    plot_joint,
    plot_law,
    plot_lr_sweep,
    plot_question,
    plot_sensitivity,
    plot_stability,
    plot_surface,
    save_figure,
)
from sweeper.fits.comparison import compare_arms, paired_difference
from sweeper.fits.dependence import fit_dependence
from sweeper.fits.design import suggest_rates
from sweeper.fits.extrapolation import extrapolate
from sweeper.fits.joint import fit_joint
from sweeper.fits.loss_curve import fit_leverage, fit_loss_curve
from sweeper.fits.losses import Losses, make_losses
from sweeper.fits.optimum import Optimum, fit_lr_optima
from sweeper.fits.power_law import fit_optimum_law, fit_power_law
from sweeper.fits.prediction import LrPrediction, predict_lr
from sweeper.fits.sensitivity import fit_sensitivity
from sweeper.fits.surface import fit_surface
from sweeper.grid import expand
from sweeper.laws.loss import LossCurve, LossSurface
from sweeper.laws.power import PowerLaw
from sweeper.laws.transfer import Transfer, rates
from sweeper.records import SweepFolder, read_records
from sweeper.sources import Asked, open_source
from sweeper.spec import Question, RunSpec, Sweep
from sweeper.table import losses, read_table, results, where

__all__ = [
    "Asked",
    "FitError",
    "FitReport",
    "LossCurve",
    "LossSurface",
    "Losses",
    "LrPrediction",
    "Optimum",
    "PowerLaw",
    "Question",
    "RunSpec",
    "SuggestedRuns",
    "Sweep",
    "SweepFolder",
    "SweeperError",
    "TableError",
    "Transfer",
    "compare_arms",
    "curve_points",
    "expand",
    "extrapolate",
    "file_question",
    "fit_dependence",
    "fit_joint",
    "fit_leverage",
    "fit_loss_curve",
    "fit_lr_optima",
    "fit_optimum_law",
    "fit_power_law",
    "fit_question",
    "fit_sensitivity",
    "fit_surface",
    "load_sweep",
    "losses",
    "make_losses",
    "open_source",
    "paired_difference",
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
    "predict_lr",
    "predict_question",
    "rates",
    "read_records",
    "read_table",
    "results",
    "save_figure",
    "suggest_question",
    "suggest_rates",
    "where",
]
