"""What a table of results answers to a `Question`: fits, curves, leverage and predictions, from columns to results."""

from sweeper.analysis.curves import CurvePoints, curve_points
from sweeper.analysis.laws import published_law
from sweeper.analysis.optima import optima_along, optima_of
from sweeper.analysis.prediction import predict_question
from sweeper.analysis.question import file_question, mixed_groups, of_rate
from sweeper.analysis.report import FitReport, fit_question
from sweeper.analysis.suggestion import SuggestedRuns, suggest_question

__all__ = [
    "CurvePoints",
    "FitReport",
    "SuggestedRuns",
    "curve_points",
    "file_question",
    "fit_question",
    "mixed_groups",
    "of_rate",
    "optima_along",
    "optima_of",
    "predict_question",
    "published_law",
    "suggest_question",
]
