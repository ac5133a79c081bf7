from hypothesis import given
from hypothesis import strategies as st

from model.config import ScheduleConfig
from model.schedule import multiplier

schedules = st.builds(
    ScheduleConfig,
    name=st.sampled_from(["linear", "cosine", "wsd", "constant"]),
    final=st.floats(0, 1),
    warmup=st.floats(0, 0.5),
    decay=st.floats(0.01, 0.5),
)


@given(schedule=schedules, steps=st.integers(1, 300))
def test_a_schedule_rises_then_falls_between_zero_and_the_peak(schedule, steps):
    values = [multiplier(schedule, step, steps) for step in range(steps)]
    top = values.index(max(values))
    assert all(0 < value <= 1 for value in values[: top + 1])
    warm = [value for step, value in enumerate(values) if step >= schedule.warmup * steps]  # none in a run of one step
    assert all(schedule.final - 1e-12 <= value for value in warm)
    assert values[: top + 1] == sorted(values[: top + 1])
    assert values[top:] == sorted(values[top:], reverse=True)
