"""Real processes that live for less than a second; none imports torch."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from builders import run_spec

from sweeper.command import CommandError, _started, _Stopping, read_result, run_command
from sweeper.records import SweepFolder, write_spec
from sweeper.spec import Trainer

ROOT = Path(__file__).resolve().parents[3]
TOY = ROOT / "tests" / "toy_trainer.py"
TOY_ARGV = ("{python}", str(TOY), "--lr", "{lr_peak}", "--steps", "{steps}")
WRITE = "import json, os; json.dump({}, open(os.environ['SWEEPER_RESULT'], 'w'))"


class Heard:
    """An observer that remembers."""

    def __init__(self):
        self.rows, self.steps, self.speeds = [], [], []

    def metrics(self, _member, row):
        self.rows.append(row)

    def progress(self, _member, step, steps, tokens_per_s):
        self.steps.append((step, steps))
        self.speeds.append(tokens_per_s)


@pytest.fixture
def attempt(tmp_path):
    """`attempt(*argv, number=…, stop=…, rank=…, **trainer)` runs a command as one attempt at a run."""
    folder = SweepFolder(tmp_path, "s")

    def run(*argv, number=1, stop=lambda: False, rank=0, world_size=1, observer=None, **trainer):
        spec = replace(run_spec(steps=20), trainer=Trainer(kind="command", argv=argv or TOY_ARGV, **trainer))
        write_spec(folder, spec)
        home = folder.attempt(spec.run_id, number)
        home.mkdir(parents=True, exist_ok=True)
        return run_command(
            spec,
            home=home,
            run_folder=folder.run(spec.run_id),
            attempt=number,
            rank=rank,
            world_size=world_size,
            observer=observer or Heard(),
            stop=stop,
        )

    run.folder = folder
    run.home = lambda number=1: folder.attempt(run_spec(steps=20).run_id, number)
    return run


def python(code):
    return ("{python}", "-c", code.replace("{", "{{").replace("}", "}}"))


def when_reported(home, step):
    """A stop that is asked for once the command has reported a step."""
    return lambda: (home / "command.jsonl").exists() and len((home / "command.jsonl").read_text().split("\n")) > step


def failure(attempt, *argv, **trainer):
    with pytest.raises(CommandError) as error:
        attempt(*argv, **trainer)
    assert "\n" not in str(error.value)
    return error.value


class TestResults:
    def test_a_command_that_ends_well_gives_its_loss_and_columns_of_its_own(self, attempt):
        heard = Heard()
        outcome = attempt(observer=heard)
        assert outcome.state == "done"
        assert outcome.loss == pytest.approx(2.72, abs=0.1)
        assert outcome.extra == {"accuracy": pytest.approx(1 / (1 + outcome.loss))}
        assert (outcome.steps, outcome.tokens) == (20, 20 * 8 * 32)
        assert [row["step"] for row in heard.rows] == list(range(1, 21))
        assert heard.steps[-1] == (20, 20)
        assert outcome.train_loss == pytest.approx(outcome.loss)
        assert "start at step 0" in (attempt.home() / "output.log").read_text()

    def test_its_speed_is_measured_while_it_runs(self, attempt):
        outcome = attempt(*TOY_ARGV, "--step-s", "0.05")
        assert 0.3 < outcome.tokens_per_s / (8 * 32 / 0.05) < 1.5

    def test_it_may_say_what_else_a_record_holds(self, attempt):
        said = {"loss": 2.5, "tokens": 99, "params": 7, "flops": 1e9, "device": "H100", "wall_time_s": 5, "steps": 3}
        outcome = attempt(*python(WRITE.format(said)))
        assert {name: getattr(outcome, name) for name in said} == said
        assert outcome.tokens_per_s == pytest.approx(99 / 5)

    @pytest.mark.parametrize("loss", ["float('nan')", "None", "float('inf')"])
    def test_a_loss_that_is_no_number_is_a_run_that_diverged(self, attempt, loss):
        outcome = attempt(*python(WRITE.format(f"{{'loss': {loss}}}")))
        assert outcome.state == "diverged"
        assert math.isnan(outcome.loss)
        assert outcome.reason.startswith("its loss is ")

    def test_a_command_may_say_itself_that_it_diverged(self, attempt):
        outcome = attempt(*python(WRITE.format({"loss": 9.0, "state": "diverged", "reason": "spikes"})))
        assert (outcome.state, outcome.loss, outcome.reason) == ("diverged", 9.0, "spikes")

    def test_columns_are_scalars_and_the_rest_is_its_json(self, tmp_path):
        (tmp_path / "result.json").write_text('{"loss": 1, "a": true, "b": "x", "c": [1, 2], "d": null, "e": NaN}')
        result = read_result(tmp_path / "result.json")
        assert result.extra == {"a": True, "b": "x", "c": "[1, 2]"}

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", "result.json: not a readable result"),
            ("[1]", "result.json: expected an object"),
            ("{}", "result.json: the result has no loss"),
            ('{"loss": "low"}', "result.json: loss: expected float or NoneType, got 'low'"),
            ('{"loss": 1, "tokens": 1.5}', "result.json: tokens: expected int or NoneType, got 1.5"),
            ('{"loss": 1, "state": "fine"}', "result.json: state: got 'fine'; "),
        ],
    )
    def test_a_result_of_another_form_is_one_sentence(self, tmp_path, text, expected):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(CommandError, match=r"^[^\n]+$") as error:
            read_result(tmp_path / "result.json")
        assert expected in str(error.value)


class TestFailures:
    def test_no_result_is_an_error_that_says_where_to_write_it(self, attempt):
        assert str(failure(attempt, *TOY_ARGV, "--trouble", "silent")) == (
            "the command ended without a result; write it to {result} (SWEEPER_RESULT) before the program ends"
        )

    def test_another_exit_code_is_an_error_with_the_last_lines(self, attempt):
        error = failure(attempt, *TOY_ARGV, "--trouble", "crash")
        assert str(error).startswith("the command exited with code 7, last saying 'something went wrong'; see ")
        assert error.detail.endswith("something went wrong\n")
        assert not error.killed

    @pytest.mark.parametrize(
        "argv", [(*TOY_ARGV, "--trouble", "kill"), ("bash", "-c", "exit 137")], ids=["it", "shell"]
    )
    def test_a_signal_that_was_not_ours_is_told_apart(self, attempt, argv):
        error = failure(attempt, *argv)
        assert str(error).startswith("the command was killed by SIGKILL")
        assert error.killed

    def test_a_program_that_does_not_exist_is_one_sentence(self, attempt):
        assert str(failure(attempt, "no-such-program")) == (
            "cannot start 'no-such-program' (No such file or directory); "
            "name a program on the PATH of the node, or its absolute path"
        )
        assert "is no folder on this node" in str(failure(attempt, directory="/no/such/folder"))


class TestStops:
    def test_a_command_that_is_asked_to_stop_ends_and_the_next_attempt_resumes(self, attempt):
        slow = (*TOY_ARGV, "--step-s", "0.05")
        outcome = attempt(*slow, stop=when_reported(attempt.home(), 3))
        assert outcome.state == "stopped"
        assert 3 <= outcome.steps < 20
        assert outcome.reason == f"asked to stop; the command was at step {outcome.steps} and ended"
        assert attempt(*slow, number=2).state == "done"
        assert f"start at step {outcome.steps} of 20" in (attempt.home(2) / "output.log").read_text()

    def test_one_that_does_not_listen_is_killed_when_its_time_is_over(self, attempt):
        began = time.monotonic()
        outcome = attempt(*TOY_ARGV, "--trouble", "deaf", stop=when_reported(attempt.home(), 5), grace_s=0.5)
        assert outcome.reason == "asked to stop; the command was at step 5 and killed after 0.5 s"
        assert time.monotonic() - began < 5

    def test_the_signal_is_as_the_sweep_says(self, attempt, tmp_path):
        code = "import signal; signal.signal(signal.SIGUSR1, lambda *_: exit(0)); open('ready', 'w'); signal.pause()"
        outcome = attempt(*python(code), stop=(tmp_path / "ready").exists, signal="SIGUSR1", directory=str(tmp_path))
        assert outcome.state == "stopped"
        assert outcome.reason.endswith("and ended")

    def test_a_result_that_was_ready_when_the_stop_came_counts(self, attempt):
        code = WRITE.format({"loss": 2.0}) + "; import time; time.sleep(60)"
        outcome = attempt(*python(code), stop=(attempt.home() / "result.json").exists, grace_s=0.5)
        assert (outcome.state, outcome.loss) == ("done", 2.0)

    @pytest.mark.parametrize("ending", ["pass", "import os; os.kill(os.getpid(), 15)"])
    def test_one_that_heard_of_the_stop_before_its_worker_did_was_stopped(self, attempt, tmp_path, ending):
        code = f"open('ended', 'w'); {ending}"

        def stop():
            return (tmp_path / "ended").exists() and not psutil.Process().children()

        outcome = attempt(*python(code), stop=stop, directory=str(tmp_path))
        assert outcome.state == "stopped"

    def test_a_program_behind_a_shell_may_write_its_checkpoint_too(self, attempt):
        words = " ".join(TOY_ARGV)
        outcome = attempt("bash", "-c", f"{words} --step-s 0.05; true", stop=when_reported(attempt.home(), 3))
        assert outcome.state == "stopped"
        assert "stopped at step" in (attempt.home() / "output.log").read_text()


class TestProcesses:
    def test_nothing_that_a_command_started_outlives_it(self, attempt):
        code = (
            "import subprocess; a = subprocess.Popen(['sleep', '600']); "
            "b = subprocess.Popen(['sleep', '600'], start_new_session=True); "
            "open(__import__('os').environ['SWEEPER_METRICS'], 'w').write(f'{a.pid} {b.pid}')"
        )
        failure(attempt, *python(code))
        pids = [int(pid) for pid in (attempt.home() / "command.jsonl").read_text().split()]
        assert len(pids) == 2
        assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)

    def test_what_an_earlier_attempt_left_is_ended_before_the_next_begins(self, attempt):
        checkpoints = attempt.folder.run(run_spec(steps=20).run_id) / "checkpoint"
        left = subprocess.Popen(
            ["sleep", "600"], env=os.environ | {"SWEEPER_CHECKPOINTS": str(checkpoints), "SWEEPER_ATTEMPT": "1"}
        )
        try:
            assert attempt(number=2).state == "done"
            assert left.wait(timeout=5) == -signal.SIGKILL
        finally:
            left.kill()

    def test_a_command_dies_with_its_worker(self, tmp_path):
        worker = tmp_path / "worker.py"
        pid = tmp_path / "pid"
        worker.write_text(
            "from sweeper.command import _started\nimport os, time\n"
            "p = _started(('sleep', '600'), dict(os.environ), 1, '', 'SIGTERM')\n"
            f"open({str(pid)!r}, 'w').write(str(p.pid))\n"
            "time.sleep(600)\n"
        )
        process = subprocess.Popen([sys.executable, str(worker)], env=os.environ | {"PYTHONPATH": str(ROOT)})
        wait_until(lambda: pid.exists() and pid.read_text())
        process.kill()
        process.wait()
        wait_until(lambda: not psutil.pid_exists(int(pid.read_text())) or _is_zombie(int(pid.read_text())))

    def test_a_command_sees_its_paths_and_none_of_what_serves_this_package_alone(self, attempt, monkeypatch):
        ours = str(ROOT)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([ours, "/theirs"]))
        monkeypatch.setenv("PYTHONSAFEPATH", "1")
        code = (
            "import json, os; names = ['SWEEPER_RUN_ID', 'SWEEPER_SPEC', 'SWEEPER_CHECKPOINTS', 'SWEEPER_ATTEMPT', "
            "'SWEEPER_METRICS', 'PYTHONPATH', 'PYTHONSAFEPATH']; seen = {n: os.environ.get(n) for n in names}; "
            "seen['run'] = json.load(open(os.environ['SWEEPER_SPEC']))['run_id']; "
            "json.dump({'loss': 1.0, **seen}, open(os.environ['SWEEPER_RESULT'], 'w'))"
        )
        seen = attempt(*python(code)).extra
        run_id = run_spec(steps=20).run_id
        assert seen["run"] == seen["SWEEPER_RUN_ID"] == run_id
        assert seen["SWEEPER_CHECKPOINTS"] == str(attempt.folder.run(run_id) / "checkpoint")
        assert seen["SWEEPER_ATTEMPT"] == "1"
        assert seen["PYTHONPATH"] == "/theirs"
        assert "PYTHONSAFEPATH" not in seen

    def test_a_torn_or_foreign_line_of_metrics_is_passed_over(self, attempt):
        code = (
            "import os; f = open(os.environ['SWEEPER_METRICS'], 'w'); "
            'f.write(\'{"step": 1, "steps": 4, "loss": 3.0, "note": "x"}\\nhello\\n{"step": 2, "lo\'); '
        )
        heard = Heard()
        attempt(*python(code + WRITE.format({"loss": 2.0})), observer=heard)
        assert heard.rows == [{"step": 1, "steps": 4, "loss": 3.0}]
        assert heard.steps[-1] == (1, 4)

    def test_a_command_that_hangs_leaves_signs_of_life_of_its_last_step(self, attempt):
        heard = Heard()
        began = time.monotonic()
        attempt(*TOY_ARGV, "--trouble", "hang", observer=heard, stop=lambda: time.monotonic() > began + 1, grace_s=0)
        assert heard.steps.count((5, 20)) > 3


class TestSeveralProcesses:
    @pytest.fixture
    def ranks(self, tmp_path):
        """`ranks(count, *argv, bound=…, …)` starts the processes of a run, as a scheduler would on one node.

        Those that are bound to one GPU each know it as number 0.
        """
        started = []

        def start(count, *argv, bound=False, **trainer):
            spec = replace(run_spec(steps=20), trainer=Trainer(kind="command", argv=argv, **trainer))
            write_spec(SweepFolder(tmp_path, "s"), spec)
            run = SweepFolder(tmp_path, "s").run(spec.run_id)
            (run / "attempts" / "1").mkdir(parents=True)
            for rank in range(count):
                local = 0 if bound else rank
                places = {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
                started.append(
                    subprocess.Popen(
                        [sys.executable, Path(__file__).with_name("command_child.py"), run, str(rank), str(count)],
                        env=os.environ
                        | {name: str(value) for name, value in places.items()}
                        | {"PYTHONPATH": str(ROOT)},
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                )
            return run, started

        yield start
        for process in started:
            process.kill()
            process.communicate()

    def outcomes(self, processes):
        return [json.loads(process.communicate(timeout=30)[0]) for process in processes]

    def test_each_starts_a_command_that_knows_its_rank_and_rank_0_reads_the_result(self, ranks):
        code = (
            "import json, os; rank = os.environ['RANK']; "
            "rank == '0' and json.dump({'loss': 1.0, 'world': os.environ['WORLD_SIZE']}, "
            "open(os.environ['SWEEPER_RESULT'], 'w')); print('rank', rank)"
        )
        run, processes = ranks(2, *python(code))
        first, second = self.outcomes(processes)
        assert (first["state"], first["loss"], first["extra"]) == ("done", 1.0, {"world": "2"})
        assert (run / "attempts/1/output.log").read_text() == "rank 0\n"
        assert (run / "attempts/1/output.1.log").read_text() == "rank 1\n"
        assert second["state"] == "done"

    @pytest.mark.parametrize("bound", [False, True])
    def test_a_launcher_of_its_own_is_started_once_on_a_node_with_the_places_in_its_own_words(self, ranks, bound):
        code = (
            "import json, os; json.dump({'loss': 1.0, **{k: v for k, v in os.environ.items() if k[:4] == 'PET_'}, "
            "'ranked': 'RANK' in os.environ}, open(os.environ['SWEEPER_RESULT'], 'x'))"
        )
        run, processes = ranks(3, *python(code), bound=bound, per="job")
        assert [outcome["state"] for outcome in self.outcomes(processes)] == ["done"] * 3
        assert json.loads((run / "attempts/1/result.json").read_text()) == {
            "loss": 1.0,
            "PET_NPROC_PER_NODE": "3",
            "PET_NNODES": "1",
            "PET_NODE_RANK": "0",
            "PET_STANDALONE": "1",
            "ranked": False,
        }

    def test_a_stop_that_one_of_them_is_asked_for_reaches_the_commands_of_all(self, ranks, tmp_path):
        code = (
            "import os, signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(0)); "
            "open('ready' + os.environ['RANK'], 'w'); time.sleep(60)"
        )
        _, processes = ranks(2, *python(code), directory=str(tmp_path))
        wait_until(lambda: (tmp_path / "ready0").exists() and (tmp_path / "ready1").exists())
        processes[1].terminate()
        assert self.outcomes(processes)[0]["state"] == "stopped"


def test_a_disk_that_is_away_for_a_moment_neither_stops_a_command_nor_fails_it(tmp_path, monkeypatch):
    def away(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle")

    asked = []
    stopping = _Stopping(lambda: bool(asked), tmp_path / "stopping")
    monkeypatch.setattr(Path, "exists", away)
    monkeypatch.setattr(Path, "touch", away)
    assert not stopping()
    asked.append(True)
    assert stopping()


def wait_until(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_zombie(pid):
    try:
        return psutil.Process(pid).status() == "zombie"
    except psutil.NoSuchProcess:
        return True


def test_a_signal_that_slurm_sends_to_all_does_not_end_a_command_that_is_told_by_another(tmp_path):
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\n"
        "time.sleep(60)"
    )
    process = _started((sys.executable, "-c", code), dict(os.environ), 1, "", "SIGTERM")
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    for number in (signal.SIGUSR2, signal.SIGUSR1):
        process.send_signal(number)
    time.sleep(0.2)
    assert process.poll() is None
    process.terminate()
    assert process.wait(timeout=10) == 7
