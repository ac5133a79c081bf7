"""The public names of the library with their homes: read by type checkers, and by `__init__.py` to find them."""

from .analysis import (
    FitReport,
    SuggestedRuns,
    curve_points,
    file_question,
    fit_question,
    predict_question,
    suggest_question,
)
from .config import load_sweep
from .errors import FitError, SweeperError, TableError
from .figures import (
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
from .fits.comparison import compare_arms, paired_difference
from .fits.dependence import fit_dependence
from .fits.design import suggest_rates
from .fits.extrapolation import extrapolate
from .fits.joint import fit_joint
from .fits.loss_curve import fit_leverage, fit_loss_curve
from .fits.losses import Losses, make_losses
from .fits.optimum import Optimum, fit_lr_optima
from .fits.power_law import fit_optimum_law, fit_power_law
from .fits.prediction import LrPrediction, predict_lr
from .fits.sensitivity import fit_sensitivity
from .fits.surface import fit_surface
from .grid import expand
from .laws.loss import LossCurve, LossSurface
from .laws.power import PowerLaw
from .laws.transfer import Transfer, rates
from .records import SweepFolder, read_records
from .sources import Asked, open_source
from .spec import Question, RunSpec, Sweep
from .table import losses, read_table, results, where

__version__: str

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
