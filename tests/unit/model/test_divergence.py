import math
from collections.abc import Iterable

import pytest

from model.divergence import Divergence, patience, watch


def judge(losses: Iterable[float], steps: int = 1000) -> list[Divergence]:
    seen, judgements = Divergence(), []
    for step, loss in enumerate(losses, start=1):
        seen = watch(seen, step=step, steps=steps, loss=loss, grad_norm=1.0)
        judgements.append(seen)
    return judgements


def test_a_falling_loss_is_healthy():
    assert not any(j.reason for j in judge(5.5 - 0.002 * i for i in range(1000)))


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run_at_once(loss):
    assert judge([5.5, 5.0, loss])[-1].reason == f"the loss became {loss} at step 3"


def test_a_gradient_that_is_no_number_ends_the_run_at_once():
    seen = watch(Divergence(), step=1, steps=10, loss=5.5, grad_norm=math.nan)
    assert seen.reason == "the gradient norm became nan at step 1"


def test_a_loss_above_its_start_ends_the_run_after_its_patience():
    judgements = judge([5.5] + [8.0] * 100)
    first = next(i for i, j in enumerate(judgements) if j.reason)
    assert first == pytest.approx(1 + patience(1000), abs=3)
    assert "above its start of 5.5" in judgements[first].reason


def test_a_spike_that_recovers_is_healthy():
    losses = [5.5] + [9.0] * 20 + [4.0] * 200
    assert not any(j.reason for j in judge(losses))


def test_noise_around_an_unmoving_loss_is_healthy():
    assert not any(j.reason for j in judge(5.5 + 0.04 * math.sin(i) + 0.03 for i in range(1000)))


def test_a_long_run_may_stay_above_its_start_for_a_twentieth_of_its_steps():
    assert not any(j.reason for j in judge([5.5] + [8.0] * 400, steps=10_000))
    assert any(j.reason for j in judge([5.5] + [8.0] * 600, steps=10_000))
