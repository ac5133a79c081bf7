import numpy as np
import pytest

from sweeper.errors import FitError
from sweeper.fits.losses import Losses, groups, make_losses


def test_every_run_that_cannot_be_fitted_keeps_its_reason():
    losses = make_losses(
        [0.01, 0.02, 0.04, 0.0, -1.0, np.nan, 0.01, 0.01],
        [2.5, np.nan, np.inf, 2.5, 2.5, 2.5, 2.5, 2.5],
        diverged=[False] * 6 + [True, False],
        covariates={"tokens": [1, 1, 1, 1, 1, 1, 1, np.nan]},
    )
    assert losses.reasons() == {
        "loss missing": 1,
        "loss infinite": 1,
        "learning rate not positive": 2,
        "learning rate missing": 1,
        "diverged": 1,
        "tokens missing": 1,
    }
    assert losses.used.sum() == 1


def test_groups_come_in_order_and_cover_every_run():
    losses = make_losses(
        [0.01, 0.02, 0.03, 0.04],
        [1, 2, 3, 4],
        covariates={"tokens": [2e9, 1e9, 2e9, 1e9]},
        labels={"arm": ["b", "b", "a", "b"]},
    )
    found = [(group, list(part.lr)) for group, part in groups(losses, ("arm", "tokens"))]
    assert found == [
        ({"arm": "a", "tokens": 2_000_000_000}, [0.03]),
        ({"arm": "b", "tokens": 1_000_000_000}, [0.02, 0.04]),
        ({"arm": "b", "tokens": 2_000_000_000}, [0.01]),
    ]


def test_a_run_without_its_group_belongs_to_none():
    losses = make_losses([0.01, 0.02], [1, 2], covariates={"tokens": [1e9, np.nan]}, labels={"arm": ["a", "b"]})
    assert [group for group, _ in groups(losses, ("tokens", "arm"))] == [{"tokens": 1_000_000_000, "arm": "a"}]


def test_a_used_run_with_a_rate_of_zero_is_refused():
    with pytest.raises(FitError, match="not positive"):
        Losses(lr=np.array([0.0]), loss=np.array([2.5]), excluded=np.array([""]), covariates={}, labels={})
