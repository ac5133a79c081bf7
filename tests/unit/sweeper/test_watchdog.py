import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import sweeper.watchdog
from sweeper.watchdog import Pace, Watchdog, silence_limit

TICK_S = 0.01


class Hangs:
    """What a watchdog has said."""

    def __init__(self) -> None:
        self.silences: list[float] = []
        self.first = threading.Event()

    def __call__(self, silent_s: float) -> None:
        self.silences.append(silent_s)
        self.first.set()


def test_silence_beyond_the_limit_is_told_once():
    hangs = Hangs()
    with Watchdog(lambda: 0.05, hangs, tick_s=TICK_S):
        assert hangs.first.wait(10)
        time.sleep(0.2)
    assert len(hangs.silences) == 1
    assert hangs.silences[0] > 0.05


def test_after_a_sign_of_life_the_next_silence_is_told_too():
    hangs = Hangs()
    with Watchdog(lambda: 0.05, hangs, tick_s=TICK_S) as watchdog:
        assert hangs.first.wait(10)
        hangs.first.clear()
        watchdog.beat()
        assert hangs.first.wait(10)
    assert len(hangs.silences) == 2


def test_signs_of_life_keep_it_quiet_for_as_long_as_they_come():
    hangs = Hangs()
    with Watchdog(lambda: 1.0, hangs, tick_s=TICK_S) as watchdog:
        for _ in range(60):
            time.sleep(0.02)
            watchdog.beat()
    assert hangs.silences == []


def test_the_limit_is_asked_anew_as_the_pace_of_the_run_becomes_known():
    limits = [0.05]
    hangs = Hangs()
    with Watchdog(lambda: limits[0], hangs, tick_s=TICK_S) as watchdog:
        limits[0] = 1e9
        watchdog.beat()
        time.sleep(0.3)
    assert hangs.silences == []


def test_a_run_that_hangs_may_end_its_watchdog_from_the_watchdog():
    done = threading.Event()

    def end(_silent_s: float) -> None:
        watchdog.__exit__()
        done.set()

    watchdog = Watchdog(lambda: 0.02, end, tick_s=TICK_S)
    watchdog.__enter__()
    assert done.wait(10)


@pytest.mark.skipif(sys.platform != "linux", reason="stops a process by signals")
def test_the_time_in_which_the_whole_process_was_stopped_is_no_silence(tmp_path):
    program = (
        "import sys, time; from sweeper.watchdog import Watchdog\n"
        "with Watchdog(lambda: 1.2, lambda s: print('hang', flush=True), tick_s=0.05) as watchdog:\n"
        "    watchdog.beat(); print('ready', flush=True); time.sleep(2.0)\n"
        "    watchdog.beat(); time.sleep(0.2); print('done', flush=True)\n"
    )
    root = str(Path(sweeper.watchdog.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)  # some ticks after its sign of life
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(1.5)  # the child, which sleeps for 2 s, is still silent when it goes on
    os.kill(process.pid, signal.SIGCONT)
    assert process.communicate(timeout=30)[0] == "done\n"


def test_the_pace_is_the_median_step_whatever_the_looks_and_validations():
    now = [0.0]
    pace = Pace(lambda: now[0])
    assert pace.step_s == 0.0
    for seconds, steps in [(0, 10), (7, 11), (16, 27), (500, 27), (3, 30), (1, 31)]:
        now[0] += seconds
        pace.at(steps)
    assert list(pace.recent) == [7.0, 1.0, 1.0, 1.0]
    assert pace.step_s == 1.0


def test_a_run_may_start_slowly_and_then_twenty_of_its_steps_are_too_long_a_silence():
    assert silence_limit(0.0, minimum_s=900, startup_s=7200) == 7200
    assert silence_limit(1.0, minimum_s=900, startup_s=7200) == 900
    assert silence_limit(120.0, minimum_s=900, startup_s=7200) == 2400
