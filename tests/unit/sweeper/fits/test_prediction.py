import math
from dataclasses import replace

import numpy as np
import pytest

from sweeper.errors import FitError
from sweeper.fits.losses import make_losses
from sweeper.fits.optimum import Optimum, fit_lr_optima
from sweeper.fits.prediction import FAR, predict_lr
from sweeper.laws.transfer import Transfer

# Public Muon and MuonH runs at width 768 and four layers per budget (MIT): tokens, then loss at the rates below.
RATES = [0.005, 0.007071068, 0.01, 0.014142136, 0.02]
MUON = {
    1e9: [3.80674, 3.74370, 3.70476, 3.68697, 3.68797],
    2e9: [3.58680, 3.54925, 3.52660, 3.51967, 3.52647],
    4e9: [3.43811, 3.41813, 3.40661, 3.40593, 3.41799],
}
MUONH = {
    1e9: [3.87692, 3.77425, 3.70119, 3.66064, 3.66211],
    2e9: [3.63519, 3.56775, 3.52445, 3.50324, 3.52073],
    4e9: [3.46709, 3.42576, 3.40003, 3.39316, 3.41618],
}


def optimum(lr, tokens, *, spread=1.06, status="ok", curvature=0.06, skew=0.8):
    return Optimum(
        group={"tokens": tokens},
        lr=lr,
        lr_low=lr / spread,
        lr_high=lr * spread,
        loss=2.5,
        method="linex",
        status=status,
        points=5,
        excluded=0,
        curvature=curvature,
        skew=skew,
    )


LAW = tuple(optimum(24.27 * t**-0.32, t) for t in (1e9, 2e9, 4e9, 8e9))


def predict(optima, tokens=16e9, *, measured=(), transfer=None, **options):
    target = {"tokens": tokens} | options.pop("target", {})
    return predict_lr(
        optima, x="tokens", target=target, measured=dict(measured), transfer=transfer or Transfer(), **options
    )


@pytest.mark.parametrize(("runs", "truth"), [(MUON, 0.00816), (MUONH, 0.01016)])
def test_budgets_up_to_4b_predict_the_optimum_at_16b_within_a_fifth_of_an_octave(runs, truth):
    losses = make_losses(
        np.tile(RATES, len(runs)), np.concatenate(list(runs.values())), covariates={"tokens": np.repeat(list(runs), 5)}
    )
    found = predict(fit_lr_optima(losses))
    assert abs(math.log2(found.lr / truth)) < 0.20
    assert found.lr_low < truth < found.lr_high
    assert found.half_width < 0.6


def test_a_law_is_continued_and_all_forms_of_it_agree():
    found = predict(LAW)
    assert found.lr == pytest.approx(24.27 * 16e9**-0.32, rel=1e-6)
    assert set(found.forms) == {"bend", "log", "linear"}
    assert found.spread == pytest.approx(0, abs=1e-6)
    assert found.lr_low < found.lr < found.lr_high


def test_the_interval_holds_what_the_transfer_rule_may_be_off_by():
    here = predict(LAW)
    deeper = predict(LAW, target={"depth": 32.0}, measured={"depth": 8.0})
    wider = predict(LAW, target={"width": 4096.0}, measured={"width": 1024.0})
    assert deeper.factors == {"depth": 0.5}
    assert here.half_width < wider.half_width < deeper.half_width
    unruled = predict(LAW, target={"depth": 32.0}, measured={"depth": 8.0}, transfer=Transfer(depth=False))
    assert unruled.half_width > deeper.half_width


def test_one_budget_is_carried_by_the_rule_with_the_error_of_its_exponent():
    found = predict(LAW[:1], 4e9)
    assert (found.x, found.factors["tokens"]) == ("", pytest.approx(4**-0.32))
    assert found.half_width > math.log2(1.06) + 0.15
    assert "not measured" in found.warnings[0]
    assert found.next_runs[0].value == 2_000_000_000


def test_missing_the_optimum_costs_less_below_it_than_above():
    found = predict(LAW)
    assert found.lr_least_regret < found.lr
    sd = found.half_width * math.log(2) / 1.645
    assert found.regret == pytest.approx(0.06 * sd**2, rel=0.15)
    flat = tuple(replace(o, curvature=None) for o in LAW)
    assert (predict(flat).regret, predict(flat).lr_least_regret) == (None, None)


def test_valleys_that_flatten_with_the_budget_are_flat_at_the_target():
    flattening = tuple(replace(o, curvature=0.06 * (o.group["tokens"] / 1e9) ** -0.3) for o in LAW)
    assert predict(flattening).regret < 0.6 * predict(LAW).regret


def test_the_runs_that_narrow_it_most_come_first_and_cost_less_than_the_target():
    found = predict(LAW, 128e9, flops=lambda tokens: 6e8 * tokens)
    widths = [runs.half_width for runs in found.next_runs]
    assert widths == sorted(widths)
    assert widths[0] < found.half_width
    assert all(runs.flops == 4 * 6e8 * runs.value for runs in found.next_runs)
    assert all(runs.flops <= 6e8 * 128e9 for runs in found.next_runs)
    assert found.next_runs[0].value == 32_000_000_000
    assert found.next_runs[0].lrs[1] == pytest.approx(24.27 * 32e9**-0.32, rel=1e-3)


def test_what_the_data_do_not_determine_is_refused_or_said():
    noise = (optimum(0.0005, 1e9, spread=30.0), optimum(0.01, 2e9, spread=30.0))
    with pytest.raises(FitError, match="do not determine a learning rate"):
        predict(noise, 32e9)
    with pytest.raises(FitError):
        predict(LAW, 1e300)
    assert any("hardly determine" in warning for warning in predict(LAW, 2e12).warnings)


def test_far_extrapolation_warns_and_bounds_enter_nothing():
    edges = (*LAW, optimum(0.5, 16e9, status="edge_high"))
    found = predict(edges, 8e9 * FAR * 1.1)
    assert found.lr == pytest.approx(predict(LAW, 8e9 * FAR * 1.1).lr)
    assert any("times beyond the measured range" in warning for warning in found.warnings)
