"""Every probe on what it should find fault with; the good case of those about SLURM is a real cluster's."""

import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.config import load_cluster
from sweeper.doctor import diagnosis, job, packages, profile, site, storage
from sweeper.doctor.finding import LEVELS, Finding, ok, within
from sweeper.doctor.node import BatchFacts, NodeFacts
from sweeper.doctor.packages import TorchFacts
from sweeper.doctor.site import Node, Partition, Rights, Site
from sweeper.errors import ConfigError
from sweeper.records import JobFile
from sweeper.slurm import Settings, SlurmError, Task
from sweeper.spec import Cluster, Gpu, Slurm
from sweeper.terminal.doctor import print_verdict

GIB = 2**30
SCONTROL_PARTITION = (
    "PartitionName=gpu AllowGroups=ALL AllowAccounts=ml,ai AllowQos=normal,debug Default=NO GraceTime=60 "
    "MaxNodes=4 MaxTime=1-00:00:00 PreemptMode=REQUEUE State=UP TotalNodes=8 DefMemPerCPU=4000 Nodes=g[1-8]\n"
    "PartitionName=cpu AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=YES GraceTime=0 MaxNodes=UNLIMITED "
    "MaxTime=UNLIMITED PreemptMode=OFF State=UP TotalNodes=2 DefMemPerNode=UNLIMITED Nodes=c[1-2]\n"
)
SINFO = "g1|gpu|64|512000|gpu:h100:8(S:0-1)|idle\ng2|gpu|64|512000|gpu:h100:8|mixed\nc1|cpu*|32|64000|(null)|down*\n"

GPU_PARTITION = Partition(name="gpu", max_time_min=1440, max_nodes=4, nodes=8)
GPU_NODE = Node(name="g1", partition="gpu", cpus=64, memory_mib=512 * 1024, gpus=8, state="idle")
CPU_NODE = replace(GPU_NODE, name="c1", partition="cpu", gpus=0)


def settings(**values: str) -> Settings:
    return Settings(values={"ClusterName": "toy", "SelectTypeParameters": "CR_CPU_MEMORY", **values})


def levels(findings) -> dict[str, str]:
    """The worst level of each probe."""
    found: dict[str, str] = {}
    for finding in findings:
        found[finding.probe] = max(finding.level, found.get(finding.probe, "ok"), key=LEVELS.index)
    return found


def asks_for_action(finding: Finding, level: str) -> bool:
    """Whether a finding is of a level, and says what to do."""
    return finding.level == level and bool(finding.remedy)


# ── what SLURM prints ──────────────────────────────────────────────────────────────────────────────────────────────


def test_partitions_are_read_from_what_scontrol_prints():
    gpu, cpu = site.read_partitions(SCONTROL_PARTITION)
    assert gpu == Partition(
        name="gpu",
        max_time_min=1440,
        max_nodes=4,
        nodes=8,
        preempt_mode="REQUEUE",
        grace_s=60,
        accounts=("ml", "ai"),
        memory_default=("DefMemPerCPU", 4000),
        qos=("normal", "debug"),
    )
    assert (cpu.default, cpu.max_time_min, cpu.max_nodes, cpu.accounts) == (True, None, None, ())
    assert cpu.memory_default is None


def test_nodes_are_read_from_what_sinfo_prints():
    *_, second, down = site.read_nodes(SINFO)
    assert second == Node(name="g2", partition="gpu", cpus=64, memory_mib=512_000, gpus=8, state="mixed")
    assert (down.partition, down.gpus, down.usable) == ("cpu", 0, False)


@pytest.mark.parametrize("state", ["down", "drained", "draining", "idle*", "unknown", "fail"])
def test_nodes_out_of_service_take_no_jobs(state):
    assert not replace(GPU_NODE, state=state).usable


@pytest.mark.parametrize("state", ["idle", "mixed", "allocated", "completing", "reserved"])
def test_nodes_in_service_take_jobs(state):
    assert replace(GPU_NODE, state=state).usable


# ── the cluster ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_old_slurm_is_told_of():
    assert asks_for_action(profile.judge_version("20.02.7"), "warning")
    assert profile.judge_version("24.11.0-0rc1").level == "ok"


def test_a_slow_controller_is_told_of():
    assert asks_for_action(profile.judge_controller("toy", 9.0), "warning")


def test_a_cluster_without_arrays_is_a_problem():
    assert asks_for_action(profile.judge_array_size(settings(MaxArraySize="0")), "problem")


def test_no_accounting_is_told_with_how_long_ended_jobs_are_known():
    finding = profile.judge_accounting(settings(AccountingStorageType="accounting_storage/none", MinJobAge="300 sec"))
    assert asks_for_action(finding, "warning")
    assert "300 sec" in finding.says


def test_a_short_time_before_the_kill_is_told_of():
    assert asks_for_action(profile.judge_kill_wait(settings(KillWait="5 sec")), "warning")
    assert profile.judge_kill_wait(settings(KillWait="30 sec")).level == "ok"


def test_commands_that_are_missing_matter_where_jobs_are_submitted():
    assert asks_for_action(diagnosis.judge_commands(["sbatch"], scheduled=True), "problem")
    assert diagnosis.judge_commands(["sbatch"], scheduled=False).level == "ok"
    assert diagnosis.judge_commands(["sacct"], scheduled=True).level == "ok"


def test_a_silent_controller_is_a_problem_only_where_jobs_are_submitted():
    assert asks_for_action(diagnosis.judge_silence("no route", scheduled=True), "problem")
    assert asks_for_action(diagnosis.judge_silence("no route", scheduled=False), "warning")


# ── the profile ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_closed_partition_or_one_without_nodes_is_a_problem():
    assert asks_for_action(profile.judge_partition(replace(GPU_PARTITION, state="DRAIN"), [GPU_NODE]), "problem")
    down = replace(GPU_NODE, state="down*")
    assert asks_for_action(profile.judge_partition(GPU_PARTITION, [down]), "problem")


def test_a_time_limit_beyond_the_partitions_names_the_one_to_set():
    finding = profile.judge_time(Slurm(time_min=3000), GPU_PARTITION)
    assert asks_for_action(finding, "problem")
    assert finding.remedy == "set cluster.slurm.time_min=1440"


def test_more_nodes_than_a_job_may_have_are_a_problem():
    assert asks_for_action(profile.judge_nodes(Slurm(nodes=8), GPU_PARTITION, [GPU_NODE] * 8), "problem")


@pytest.mark.parametrize(
    ("asked", "nodes", "level"),
    [
        (Slurm(gpus_per_node=8), [GPU_NODE], "ok"),
        (Slurm(gpus_per_node=4), [GPU_NODE], "ok"),
        (Slurm(gpus_per_node=4, exclusive=True), [GPU_NODE], "warning"),
        (Slurm(gpus_per_node=16), [GPU_NODE], "problem"),
        (Slurm(gpus_per_node=4), [CPU_NODE], "problem"),
        (Slurm(gpus_per_node=4, gpu_request="none", exclusive=True), [CPU_NODE], "ok"),
        (Slurm(gpus_per_node=4, gpu_request="none"), [CPU_NODE], "warning"),
        (Slurm(gpus_per_node=0), [CPU_NODE], "ok"),
        (Slurm(gpus_per_node=0), [GPU_NODE], "warning"),
    ],
)
def test_the_gpus_of_a_profile_are_held_against_those_of_the_nodes(asked, nodes, level):
    assert profile.judge_gpus(asked, nodes).level == level


def test_more_cores_than_a_node_has_are_a_problem_with_the_number_to_set():
    finding = profile.judge_cpus(Slurm(gpus_per_node=8, cpus_per_process=16), [GPU_NODE])
    assert asks_for_action(finding, "problem")
    assert finding.remedy == "set cluster.slurm.cpus_per_process=8"


def test_more_memory_than_a_node_has_is_a_problem_with_the_number_to_set():
    finding = profile.judge_memory(Slurm(mem_gib=100), GPU_PARTITION, [GPU_NODE], settings())
    assert asks_for_action(finding, "problem")
    assert finding.remedy == "set cluster.slurm.mem_gib=64"


def test_jobs_that_would_each_take_a_whole_nodes_memory_are_told_of():
    assert asks_for_action(profile.judge_memory(Slurm(), GPU_PARTITION, [GPU_NODE], settings()), "warning")
    assert profile.judge_memory(Slurm(exclusive=True), GPU_PARTITION, [GPU_NODE], settings()).level == "ok"
    uncounted = settings(SelectTypeParameters="CR_CORE")
    assert profile.judge_memory(Slurm(), GPU_PARTITION, [GPU_NODE], uncounted).level == "ok"


@pytest.mark.parametrize(
    ("partitions", "clusters", "level", "value"),
    [
        (("DefMemPerCPU", 4000), {}, "ok", "250 GiB on a node for 8 processes, by DefMemPerCPU=4000 MiB"),
        (None, {"DefMemPerCPU": "100"}, "warning", "6.25 GiB on a node for 8 processes, by DefMemPerCPU=100 MiB"),
        (("DefMemPerGPU", 2048), {"DefMemPerCPU": "100"}, "ok", "16 GiB on a node for 8 processes"),
        (None, {"DefMemPerNode": "4096"}, "warning", "4 GiB on a node for 8 processes, by DefMemPerNode=4096 MiB"),
    ],
)
def test_what_a_job_gets_that_asks_for_no_memory_is_said(partitions, clusters, level, value):
    partition = replace(GPU_PARTITION, memory_default=partitions)
    finding = profile.judge_memory(Slurm(), partition, [GPU_NODE], settings(**clusters))
    assert (finding.level, finding.value[: len(value)]) == (level, value)


@pytest.mark.parametrize(
    ("mode", "parameters", "level"),
    [
        ("OFF", "", "ok"),
        ("REQUEUE", "preempt_send_user_signal", "ok"),
        ("REQUEUE", "", "warning"),
        ("CANCEL", "", "warning"),
        ("GANG,SUSPEND", "", "ok"),
    ],
)
def test_what_becomes_of_a_preempted_job_is_said(mode, parameters, level):
    finding = profile.judge_preemption(
        replace(GPU_PARTITION, preempt_mode=mode), settings(SlurmctldParameters=parameters)
    )
    assert finding.level == level


def test_an_account_that_is_not_the_users_or_not_the_partitions_is_a_problem():
    mine = profile.judge_choice("account", "mll", ["ml"], [], "gpu")
    assert asks_for_action(mine, "problem")
    assert "did you mean 'ml'?" in mine.remedy
    assert asks_for_action(profile.judge_choice("account", "ml", ["ml"], ["ai"], "gpu"), "problem")
    assert profile.judge_choice("account", "ml", [], [], "gpu").level == "ok"


def test_a_reservation_that_ended_is_a_problem():
    assert asks_for_action(profile.judge_reservation("summer", exists=False), "problem")


def test_an_unknown_partition_is_answered_with_the_nearest():
    cluster = Cluster(scheduler="slurm", slurm=Slurm(partition="gpus"))
    known = Site(settings=settings(), answer_s=0.1, partitions=(GPU_PARTITION,), nodes=(GPU_NODE,))
    (finding,) = profile.profile_findings(cluster, known, Rights(), reserved=False)
    assert asks_for_action(finding, "problem")
    assert "did you mean 'gpu'?" in finding.remedy


def test_a_good_profile_of_two_partitions_is_held_against_each():
    cluster = Cluster(scheduler="slurm", slurm=Slurm(partition="gpu,other"))
    other = replace(GPU_PARTITION, name="other", max_time_min=60)
    nodes = (GPU_NODE, replace(GPU_NODE, partition="other"))
    known = Site(settings=settings(), answer_s=0.1, partitions=(GPU_PARTITION, other), nodes=nodes)
    found = levels(profile.profile_findings(cluster, known, Rights(), reserved=False))
    assert found["time limit of gpu"] == "ok"
    assert found["time limit of other"] == "problem"


# ── python and torch ───────────────────────────────────────────────────────────────────────────────────────────────


def test_an_old_python_is_a_problem():
    assert asks_for_action(packages.judge_python((3, 10, 4)), "problem")


def test_packages_that_are_missing_or_old_are_problems_with_the_words_to_install_them():
    installed = {"numpy": "1.20", "rich": "14.0"}
    wanted = ["numpy>=1.26", "rich>=13", "submitit>=1.5.2", "torch>=2.11; extra == 'train'"]
    old, absent = packages.judge_packages(wanted, lambda name: installed.get(name, ""))
    assert (old.probe, old.level, old.remedy) == ("numpy", "problem", "pip install 'numpy>=1.26'")
    assert (absent.probe, absent.level) == ("submitit", "problem")


WORKING = TorchFacts(version="2.13.0", cuda="13.0", available=True, devices=("NVIDIA H100 80GB HBM3",), memory_gib=79.1)
H100 = Gpu(name="h100", memory_gib=80.0)


def torch_levels(facts: TorchFacts, **asked) -> dict[str, str]:
    return levels(packages.judge_torch(facts, "job", **({"trains_here": True} | asked)))


def test_a_login_node_may_do_without_torch_but_a_job_may_not():
    absent = TorchFacts(error="ModuleNotFoundError: No module named 'torch'")
    assert torch_levels(absent, trains_here=False) == {"torch": "ok"}
    assert torch_levels(absent) == {"torch": "problem"}


def test_a_broken_torch_is_a_problem_everywhere():
    assert torch_levels(TorchFacts(error="ImportError: libcudart.so.13"), trains_here=False) == {"torch": "problem"}


def test_an_old_torch_is_a_problem():
    assert torch_levels(replace(WORKING, version="2.4.1")) == {"torch": "problem"}


def test_a_build_that_the_driver_does_not_support_is_a_problem():
    facts = replace(WORKING, available=False, devices=(), driver="470.57")
    assert torch_levels(facts, gpus=1)["cuda"] == "problem"


def test_gpus_that_a_process_does_not_see_are_a_problem():
    facts = replace(WORKING, available=False, devices=())
    assert torch_levels(facts, gpus=1)["gpus"] == "problem"


def test_gpus_of_another_number_or_model_are_told_of_and_too_little_memory_is_a_problem():
    assert torch_levels(WORKING, gpus=1, gpu=H100) == {"torch": "ok", "gpus": "ok"}
    assert torch_levels(WORKING, gpus=2)["gpus"] == "warning"
    small = replace(WORKING, devices=("NVIDIA A100-SXM4-40GB",), memory_gib=39.4)
    found = torch_levels(small, gpus=1, gpu=H100)
    assert (found["gpu model"], found["gpu memory"]) == ("warning", "problem")


# ── the folder ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_filesystem_is_a_problem_by_bytes_and_by_files():
    assert asks_for_action(storage.judge_space(GIB // 2, None), "problem")
    assert asks_for_action(storage.judge_space(100 * GIB, 10), "problem")
    assert asks_for_action(storage.judge_space(5 * GIB, None), "warning")
    assert storage.judge_space(100 * GIB, None).level == "ok"


def test_slow_writes_are_told_of_by_their_median():
    assert asks_for_action(storage.judge_latency((0.5,) * 20), "warning")
    assert storage.judge_latency((0.001,) * 19 + (3.0,)).level == "ok"


def test_a_local_filesystem_is_told_of_where_others_must_see_it():
    mounts = storage.read_mounts(
        "/dev/sda / ext4 rw 0 0\ntmpfs /fast tmpfs rw 0 0\nserver:/x /home/my\\040data nfs4 rw 0 0\n"
    )
    found = {path: storage.filesystem(Path(path), mounts)[1].kind for path in ("/srv", "/fast/x", "/home/my data/runs")}
    assert found == {"/srv": "ext4", "/fast/x": "tmpfs", "/home/my data/runs": "nfs4"}
    assert asks_for_action(storage.judge_filesystem(Path("/fast/x"), mounts[1], shared=True), "warning")
    assert storage.judge_filesystem(Path("/fast/x"), mounts[1], shared=False).level == "ok"
    assert storage.judge_filesystem(Path("/home/my data/runs"), mounts[2], shared=True).level == "ok"


def test_a_filesystem_that_replaces_a_claimed_folder_is_a_problem(tmp_path, monkeypatch):
    def replaces(source: Path, target: Path) -> None:
        subprocess.run(["rm", "-rf", str(target)], check=True)
        subprocess.run(["mv", str(source), str(target)], check=True)

    monkeypatch.setattr(Path, "rename", replaces)
    assert asks_for_action(storage.probe_rename(tmp_path), "problem")


def test_locks_that_are_missing_or_let_two_in_are_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(storage.fcntl, "flock", lambda *_: None)
    assert asks_for_action(storage.probe_locks(tmp_path), "warning")

    def missing(file, how) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(storage.fcntl, "flock", missing)
    assert asks_for_action(storage.probe_locks(tmp_path), "warning")


@pytest.mark.parametrize(
    ("skew", "doubt", "level"), [(0.1, 0, "ok"), (-20, 0, "warning"), (90, 0, "problem"), (90, 88, "ok")]
)
def test_a_clock_that_is_off_is_told_of_unless_it_may_be_the_measurement(skew, doubt, level):
    assert storage.judge_clock("job", "the node", skew, doubt).level == level


def test_the_probes_of_a_good_folder_find_nothing_and_leave_nothing(tmp_path):
    runs = tmp_path / "a" / "runs"
    with storage.scratch_in(runs) as scratch:
        found = levels(storage.folder_findings(scratch, shared=False))
    found.pop("space")  # of the machine that tests
    assert set(found.values()) == {"ok"}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path):
    with storage.scratch_in(tmp_path):
        pass
    assert tmp_path.exists()
    assert list(tmp_path.iterdir()) == []


# ── probes that fail themselves ────────────────────────────────────────────────────────────────────────────────────


def test_a_probe_that_hangs_is_a_problem_and_not_waited_for():
    start = time.monotonic()
    (finding,) = within(0.05, "folder", "latency", lambda: time.sleep(2), "choose another")
    assert time.monotonic() - start < 1
    assert asks_for_action(finding, "problem")


def test_a_probe_that_cannot_be_carried_out_says_why():
    def refused() -> Finding:
        raise PermissionError(13, "Permission denied")

    (finding,) = within(5, "folder", "rename", refused, "choose another")
    assert "Permission denied" in finding.says


def test_a_mistake_in_a_probe_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        within(5, "folder", "rename", lambda: ok("folder", "x", str(1 / 0)), "")


# ── in a job ───────────────────────────────────────────────────────────────────────────────────────────────────────

CLUSTER = Cluster(scheduler="slurm", processes=0, slurm=Slurm(gpus_per_node=0, slots_per_node=4, nodes=2))
PLAIN_TORCH = TorchFacts(version="2.13.0+cpu")


def pair(**second) -> tuple[JobFile, list[NodeFacts]]:
    """A job of two nodes whose second process saw something else than it should."""
    facts = NodeFacts(
        rank=0,
        world=2,
        node="n1",
        host="n1",
        python="3.11.7",
        executable="/env/bin/python",
        cpus=8,
        gpus="",
        lock_shared=True,
        torch=PLAIN_TORCH,
        gloo_s=0.1,
        done=True,
    )
    other = replace(facts, rank=1, node="n2", host="n2", address="10.0.0.1", tcp_s=0.01)
    return job.job_of(CLUSTER, "x", 2, 2), [facts, replace(other, **second)]


def node_levels(
    job_file: JobFile, facts: list[NodeFacts], said: str = "", cluster: Cluster = CLUSTER
) -> dict[str, str]:
    batch = BatchFacts(host="n1", node="n1", finds_file=True, step_code=1 if said else 0, said=said)
    return levels(job.node_findings(cluster, job_file, facts, batch))


def test_a_good_pair_of_nodes_is_all_well():
    assert set(node_levels(*pair()).values()) == {"ok"}


@pytest.mark.parametrize(
    ("second", "probe", "level"),
    [
        ({"tcp_s": None, "name_error": "n1: Name or service not known"}, "rendezvous", "problem"),
        ({"tcp_s": None, "tcp_error": "n1 (10.0.0.1) port 5: refused"}, "rendezvous", "problem"),
        ({"gloo_s": None, "gloo_error": "RuntimeError: connect"}, "gloo", "problem"),
        ({"gloo_s": None}, "gloo", "problem"),
        ({"cpus": 1}, "cores", "warning"),
        ({"torch": TorchFacts(error="ImportError: x")}, "torch", "problem"),
        ({"done": False}, "end", "problem"),
    ],
)
def test_what_the_second_node_lacks_is_told(second, probe, level):
    assert node_levels(*pair(**second))[probe] == level


def test_processes_that_did_not_start_are_a_problem_with_their_last_words():
    job_file, facts = pair()
    said = "exit code 2: slurmstepd: error: execve(): apptainer: No such file\nsrun: Terminating"
    (finding,) = job.node_findings(
        CLUSTER, job_file, [], BatchFacts(host="n1", node="n1", finds_file=True, step_code=2, said=said)
    )
    assert asks_for_action(finding, "problem")
    assert "apptainer" in finding.says
    assert node_levels(job_file, facts[:1])["processes"] == "problem"


def test_locks_that_do_not_reach_the_node_are_told_of():
    _, (first, _) = pair()
    assert asks_for_action(job.judge_shared_lock(replace(first, lock_shared=False)), "warning")


def test_a_node_that_does_not_see_our_files_is_a_problem():
    batch = BatchFacts(host="n1", node="n1", finds_file=False)
    assert asks_for_action(job.judge_folder_there(batch), "problem")


def test_files_that_are_seen_late_are_told_of():
    assert asks_for_action(job.judge_exchange(25.0), "warning")


def test_gpus_are_summed_over_with_nccl():
    cluster = replace(CLUSTER, gpu=H100, slurm=Slurm(gpus_per_node=8, nodes=2))
    job_file, facts = pair()
    with_gpus = [replace(each, torch=WORKING, nccl_s=0.02) for each in facts]
    assert node_levels(job_file, with_gpus, cluster=cluster)["nccl"] == "ok"
    hung = [with_gpus[0], replace(with_gpus[1], nccl_s=None, nccl_error="DistBackendError: timed out")]
    assert node_levels(job_file, hung, cluster=cluster)["nccl"] == "problem"


def watch(tmp_path: Path, task: Task | None, *, gone: bool) -> "job._Watch":
    looking = job._Watch("x", tmp_path, settings())
    looking.task, looking.gone = task, gone
    return looking


WAITING = Task(name="x", job_id="7", index=0, state="PENDING", reason="Priority")


@pytest.mark.parametrize(
    ("task", "gone", "output", "level", "word"),
    [
        (WAITING, False, "", "warning", "Priority"),
        (replace(WAITING, state="RUNNING", reason="", nodes="n7"), False, "", "problem", "n7"),
        (None, True, "", "problem", "nothing that it wrote"),
        (None, True, "line 9: /env/bin/python: No such file or directory\n", "problem", "/env/bin/python"),
    ],
    ids=["waiting", "unseen", "vanished", "no interpreter"],
)
def test_a_job_that_is_never_seen_is_told_apart_by_what_the_queue_says(tmp_path, task, gone, output, level, word):
    if output:
        (tmp_path / "7.out").write_text(output)
    finding = job._never_seen(watch(tmp_path, task, gone=gone), CLUSTER, "7", 300.0)
    assert asks_for_action(finding, level)
    assert word in finding.says + finding.value


# ── the whole ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_profile_is_composed_as_a_sweep_would_compose_it():
    cluster = load_cluster(["cluster=h100", "cluster.slurm.partition=gpu", "cluster.scheduler=slurm"])
    assert (cluster.gpu.name, cluster.slurm.partition) == ("h100", "gpu")
    assert load_cluster(["h200"]).gpu.name == "h200"
    assert load_cluster() == load_cluster(["local"])


@pytest.mark.parametrize("name", ["h100", "h200", "slurm_cpu"])
def test_the_profiles_that_ship_are_of_slurm_and_can_be_tried_without_it(name):
    assert load_cluster([name]).scheduler == "slurm"
    assert load_cluster([name, "cluster.scheduler=local", "cluster.processes=1"]).name == name


def test_a_setting_of_a_sweep_is_not_one_of_a_cluster():
    with pytest.raises(ConfigError, match=r"model\.depth=2.*not a setting of a cluster"):
        load_cluster(["local", "model.depth=2"])


@pytest.fixture
def _no_torch(monkeypatch) -> None:
    monkeypatch.setattr(diagnosis, "torch_here", lambda _: ())


@pytest.mark.usefixtures("_no_torch")
def test_a_folder_that_cannot_be_written_ends_the_probes_of_it(tmp_path):
    file = tmp_path / "runs"
    file.write_text("")
    found = levels(diagnosis.diagnose(Cluster(), file, tell=print))
    assert found["writable"] == "problem"
    assert "latency" not in found


@pytest.mark.usefixtures("_no_torch")
def test_a_controller_that_is_silent_is_a_problem_and_no_job_is_tried(tmp_path, monkeypatch):
    def silent() -> Site:
        raise SlurmError("Unable to contact slurm controller")

    monkeypatch.setattr(diagnosis, "read_site", silent)
    monkeypatch.setattr(diagnosis.shutil, "which", lambda name: f"/bin/{name}")
    found = list(diagnosis.diagnose(CLUSTER, tmp_path, tell=print))
    assert levels(found)["controller"] == "problem"
    assert "job" not in {finding.area for finding in found}


@pytest.mark.usefixtures("_no_torch")
def test_nothing_is_left_behind_when_it_is_interrupted(tmp_path):
    runs = tmp_path / "runs"
    found = diagnosis.diagnose(Cluster(), runs, tell=print)
    while next(found).probe != "space":
        pass
    assert runs.exists()
    found.close()
    assert not runs.exists()


# ── what is printed ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_verdict_counts_in_words_that_agree(capsys):
    cases = [ok("python", "a", "fine"), *(profile.judge_kill_wait(settings(KillWait="5 sec")) for _ in range(2))]
    print_verdict(cases, "toy")
    assert capsys.readouterr().out == "toy: 1 ok, 2 warnings\n"


def test_what_slurm_says_of_scripts_stands_under_its_own_title(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "try_script", lambda _: "it would start")
    found = job.script_findings(Cluster(name="toy", scheduler="slurm", slurm=Slurm(gpus_per_node=0)), tmp_path)
    assert {finding.area for finding in found} == {"script"}
