import pytest

from model.config import ScheduleConfig
from model.schedule import multiplier

NAMES = ["linear", "cosine", "wsd", "constant"]


def curve(steps=100, **settings):
    return [multiplier(ScheduleConfig(**settings), step, steps) for step in range(steps)]


@pytest.mark.parametrize("name", NAMES)
def test_without_warmup_the_first_step_runs_at_the_peak(name):
    assert curve(name=name)[0] == 1


def test_the_default_falls_on_a_line_to_a_tenth_one_step_after_the_last():
    assert curve() == pytest.approx([1 - 0.9 * step / 100 for step in range(100)])


def test_the_cosine_is_halfway_down_in_the_middle():
    assert curve(name="cosine")[50] == pytest.approx(0.55)


def test_wsd_holds_the_peak_until_its_decay():
    values = curve(name="wsd", decay=0.2)
    assert values[:81] == [1.0] * 81
    assert values[90] == pytest.approx(0.55)


@pytest.mark.parametrize("name", NAMES)
def test_warmup_rises_evenly_to_the_peak_and_wastes_no_step_on_zero(name):
    values = curve(name=name, warmup=0.1)
    assert values[:11] == pytest.approx([(step + 1) / 11 for step in range(11)])


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_every_decay_ends_just_above_its_final_value(name, warmup):
    last = curve(steps=10_000, name=name, warmup=warmup, final=0.1)[-1]
    assert 0.1 < last < 0.1 + 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_one_step_runs_at_the_peak(name):
    assert curve(steps=1, name=name) == [1.0]
