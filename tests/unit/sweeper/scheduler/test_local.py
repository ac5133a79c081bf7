import os
import subprocess
import sys

import psutil
import pytest

from model.config import Execution
from sweeper.errors import ConfigError
from sweeper.records import owner_of, started_at
from sweeper.scheduler import local as scheduler
from sweeper.scheduler.local import cores, is_broken, kill, slots, visible_gpus
from sweeper.spec import Cluster

CPU = Execution(device="cpu")


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [
        ("0,1", ("0", "1")),
        ("GPU-8a6f,MIG-99", ("GPU-8a6f", "MIG-99")),
        ("0,-1,1", ("0",)),  # CUDA stops there too
        ("", ()),
    ],
)
def test_gpus_are_named_as_cuda_names_them(monkeypatch, chosen, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus() == seen


def test_every_gpu_is_a_slot_and_a_run_of_two_processes_takes_two(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert slots(Cluster(), Execution()) == (("0",), ("1",), ("2",))
    assert slots(Cluster(processes=2), Execution()) == (("0", "1"),)
    assert slots(Cluster(parallel=1), Execution()) == (("0",),)
    with pytest.raises(ConfigError, match="processes 4 exceeds the 3 GPUs"):
        slots(Cluster(processes=4), Execution())


def test_runs_of_one_process_share_gpus_where_more_are_asked_for_than_there_are(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert slots(Cluster(parallel=3), Execution()) == (("0",), ("1",), ("0",))
    assert slots(Cluster(processes=2, parallel=3), Execution()) == (("0", "1"),)  # NCCL wants a GPU for each


def test_asking_for_cuda_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="shows no GPU"):
        slots(Cluster(), Execution(device="cuda"))


def test_asking_for_triton_without_a_gpu_is_refused_unless_it_is_interpreted(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match=r"execution\.triton needs a GPU and this machine shows none"):
        slots(Cluster(), Execution(triton=True))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert slots(Cluster(parallel=1), Execution(triton=True)) == ((),)


def test_on_cpus_runs_share_the_cores(monkeypatch):
    monkeypatch.setattr(scheduler, "cores", lambda: 8)
    assert len(slots(Cluster(), CPU)) == 8
    assert len(slots(Cluster(processes=2), Execution(device="cpu", threads=2))) == 2
    assert len(slots(Cluster(parallel=3), CPU)) == 3
    assert len(slots(Cluster(processes=64), CPU)) == 1


def test_on_cpus_runs_share_the_memory(monkeypatch):
    monkeypatch.setattr(scheduler, "cores", lambda: 1000)
    assert len(slots(Cluster(), CPU, memory_gib=1e6)) == 1


def test_cores_heed_the_affinity_of_the_process():
    script = (
        "import os; from sweeper.scheduler.local import cores\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(cores())"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "1\n"
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_a_job_that_lost_a_process_is_broken_and_killed_whole():
    script = (
        "import subprocess, time\n"
        "children = [subprocess.Popen(['sleep', '60']) for _ in range(2)]; print(flush=True); time.sleep(60)"
    )
    job = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    job.stdout.readline()
    owner = owner_of(job.pid)
    assert is_broken(owner, processes=3)
    assert not is_broken(owner, processes=2)
    kill(owner)
    job.wait(timeout=10)
    assert not owner.alive
    assert not is_broken(owner, processes=2)
    kill(owner)


def test_a_process_that_ends_meanwhile_does_not_save_the_others(monkeypatch):
    script = (
        "import subprocess, time\n"
        "children = [subprocess.Popen(['sleep', '60']) for _ in range(2)]; print(flush=True); time.sleep(60)"
    )
    job = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    job.stdout.readline()
    first, second = psutil.Process(job.pid).children()
    once = psutil.Process.kill

    def gone(process):
        if process.pid == first.pid:
            raise psutil.NoSuchProcess(process.pid)
        once(process)

    monkeypatch.setattr(psutil.Process, "kill", gone)
    kill(owner_of(job.pid))
    job.wait(timeout=10)
    assert started_at(second.pid) is None
    once(first)


def test_the_environment_is_as_before_after_a_child_started(monkeypatch):
    monkeypatch.setenv("OURS", "before")
    monkeypatch.delenv("THEIRS", raising=False)
    with scheduler._child_environment({"OURS": "within", "THEIRS": "within"}):
        assert (os.environ["OURS"], os.environ["THEIRS"]) == ("within", "within")
    assert os.environ["OURS"] == "before"
    assert "THEIRS" not in os.environ
