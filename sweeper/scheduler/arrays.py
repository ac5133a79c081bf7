"""Hand job arrays to SLURM: their scripts, written by submitit, and their submission, never twice.

What runs in a job is `python -m sweeper.supervisor FOLDER`: no pickles, and the same words whatever number SLURM gives
the job, so that one whose sbatch seemed to fail still finds its work.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.errors import LaunchError
from sweeper.records import JobFile, LaunchFile, SweepFolder
from sweeper.slurm import SlurmError, ask_queue, environment, find_job, is_limit, is_silence, is_vague
from sweeper.spec import Cluster

SBATCH_TIMEOUT_S = 60.0
LEFT_OPEN = {
    "SBATCH_ACCOUNT": "#SBATCH --account",
    "SBATCH_PARTITION": "#SBATCH --partition",
    "SBATCH_QOS": "#SBATCH --qos",
    "SBATCH_RESERVATION": "#SBATCH --reservation",
    "SBATCH_CONSTRAINT": "#SBATCH --constraint",
}
"""Variables that speak where the profile does not; all others of sbatch would override it."""
LOOKUP_S = (0.5, 2.0, 5.0, 10.0)
"""Waits between looks for a job whose sbatch did not answer."""


class LimitError(LaunchError):
    """SLURM takes no more jobs of this user for now."""


class UnansweredError(LaunchError):
    """Nobody knows whether a job was taken: the intent stays, and nothing is submitted in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the jobs of one array ask for."""

    nodes: int
    tasks_per_node: int
    """Processes on each node, one per GPU."""
    time_min: int
    dependency: str = ""
    """As sbatch takes it: `afterok:1:2`."""
    excluded: tuple[str, ...] = ()
    """Nodes that the sweep avoids, beside those of the profile."""


def sbatch_script(job: JobFile, shape: Shape, folder: SweepFolder) -> str:
    """The script of an array: the words that the job's profile gives to sbatch, then the supervisor."""
    path = (folder.jobs / job.job).resolve()
    command = f"exec {python_of(job.profile)} -u -m sweeper.supervisor {shlex.quote(str(path))}"
    return _script(path, command, _options(job, shape), _environment(folder, job), len(job.tasks))


def command_script(job: JobFile, shape: Shape, path: Path, command: str, code: Path) -> str:
    """The script of a single job that runs another command as a run of this profile would be.

    Args:
        path: Folder of its output.
        code: What PYTHONPATH begins with.
    """
    options = {name: value for name, value in _options(job, shape).items() if name != "array_parallelism"}
    lines = [f"export PYTHONPATH={_pythonpath(code)}", *_variables(job)]
    return _script(path.resolve(), command, options, lines, None)


def _script(path: Path, command: str, options: Mapping[str, Any], environment: Sequence[str], tasks: int | None) -> str:
    import submitit

    class Writer(submitit.SlurmExecutor):
        """Writes a script where SLURM need not be installed."""

        @classmethod
        def affinity(cls) -> int:
            return 1

        def write(self, command: str) -> str:
            if tasks is not None:
                self.parameters["map_count"] = tasks
            return str(self._make_submission_file_text(command, ""))

    if "%" in str(path) or "\n" in str(path):
        raise LaunchError(
            f"{str(path)!r} holds a character that sbatch would expand; choose another folder with --runs"
        )
    writer = Writer(folder=path)
    setup = [*options.get("setup", ()), *environment]
    writer.update_parameters(**{**options, "setup": setup})
    # submitit names its output after its own tasks; ours is the supervisor's.
    return writer.write(command).replace("_0_log.out", ".out")


def _options(job: JobFile, shape: Shape) -> dict[str, Any]:
    slurm = job.profile.slurm
    excluded = ",".join(part for part in (slurm.exclude, *shape.excluded) if part)
    more: dict[str, Any] = {"requeue": True, "signal": f"B:USR2@{slurm.signal_s}"}
    if slurm.reservation:
        more["reservation"] = slurm.reservation
    options: dict[str, Any] = {
        "job_name": job.job,
        "time": shape.time_min,
        "nodes": shape.nodes,
        "ntasks_per_node": shape.tasks_per_node,
        "cpus_per_task": slurm.cpus_per_process,
        "partition": slurm.partition or None,
        "account": slurm.account or None,
        "qos": slurm.qos or None,
        "constraint": slurm.constraint or None,
        "exclude": excluded or None,
        "dependency": shape.dependency or None,
        "exclusive": True if slurm.exclusive else None,
        "setup": list(slurm.setup),
        "array_parallelism": slurm.throttle or len(job.tasks),
        "stderr_to_stdout": True,
        "use_srun": False,
        "wckey": None,  # submitit's default is refused by clusters that do not track wckeys
        **_gpus(job.profile, shape),
    }
    if slurm.mem_gib:
        options["mem"] = f"{round(slurm.mem_gib * shape.tasks_per_node * 1024)}M"
    if shape.dependency:
        more["kill-on-invalid-dep"] = "yes"
    more |= {name.replace("_", "-"): value for name, value in slurm.extra_sbatch.items()}
    if more.get("no-requeue"):
        del more["requeue"]  # of the two sbatch takes the later line
    return {**options, "additional_parameters": more}


def _gpus(cluster: Cluster, shape: Shape) -> dict[str, Any]:
    slurm = cluster.slurm
    if slurm.gpu_request == "none" or slurm.gpus_per_node == 0:
        return {}
    wanted = slurm.gpus_per_node if slurm.exclusive else shape.tasks_per_node
    asked = f"{slurm.gpu_type}:{wanted}" if slurm.gpu_type else str(wanted)
    return {"gpus_per_node": asked} if slurm.gpu_request == "gpus_per_node" else {"gres": f"gpu:{asked}"}


def python_of(cluster: Cluster) -> str:
    """The shell's words for the interpreter of jobs: the profile's, else the one that launches."""
    return cluster.slurm.python or shlex.quote(sys.executable)


def _environment(folder: SweepFolder, job: JobFile) -> list[str]:
    """Shell lines that set what the job's processes see: the frozen code first, then the profile's variables."""
    return [f"export PYTHONPATH={_pythonpath(folder.code / job.code)}", *_variables(job)]


def _variables(job: JobFile) -> list[str]:
    threads = str(job.execution.threads)
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    variables |= {"PYTHONSAFEPATH": "1", **job.profile.slurm.environment}
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def _pythonpath(code: Path) -> str:
    """PYTHONPATH of a job, for a shell: this code before all else."""
    return shlex.quote(str(code.resolve())) + "${PYTHONPATH:+:$PYTHONPATH}"


def keeper_script(launch: LaunchFile, folder: SweepFolder, name: str) -> str:
    """The script of the job that tends a sweep: one CPU, requeued at its time limit until nothing is left to do."""
    slurm = launch.cluster.slurm
    path = (folder.jobs / ".keeper").resolve()
    command = f"exec {python_of(launch.cluster)} -u -m sweeper.keeper {shlex.quote(str(folder.path.resolve()))}"
    more: dict[str, Any] = {"requeue": True, "signal": f"B:USR2@{slurm.signal_s}"}
    more |= {"reservation": slurm.reservation} if slurm.reservation else {}
    options = {
        "job_name": name,
        "time": slurm.time_min,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": 1,
        "partition": slurm.keeper_partition or slurm.partition or None,
        "account": slurm.account or None,
        "qos": slurm.qos or None,
        "setup": list(slurm.setup),
        "stderr_to_stdout": True,
        "use_srun": False,
        "wckey": None,
        "additional_parameters": more,
    }
    return _script(
        path,
        command,
        options,
        [f"export PYTHONPATH={_pythonpath(folder.code / launch.code)}", "export PYTHONSAFEPATH=1"],
        None,
    )


def submit_script(script: Path, name: str, renew: Callable[[], None] = lambda: None) -> str:
    """Submit a script whose intent is on disk; the number of its job.

    Where sbatch gets no answer the job is looked for by its name, so that a job that was taken all the same is found.

    Args:
        renew: Called every few seconds while SLURM is waited for.

    Raises:
        LimitError: A limit of the account, the QOS or the cluster.
        UnansweredError: SLURM does not say whether it took the job.
        LaunchError: SLURM refuses it.
    """
    try:
        return _sbatch(script)
    except SlurmError as error:
        said = str(error)
    if is_silence(said) and (number := _looked_up(name, said, renew)) is not None:
        return number
    if is_limit(said) and not (is_vague(said) and _alone()):
        raise LimitError(said)
    if is_silence(said):
        raise UnansweredError(
            f"SLURM did not say whether it took the job {name} ({said}); nothing is submitted in its place: "
            "launch again when SLURM answers"
        )
    raise LaunchError(f"SLURM refuses the job: {said}; mend the profile (cluster.slurm.*) and launch again")


def _alone() -> bool:
    """Whether no job of this user waits or runs: then no limit passes by waiting."""
    queue = ask_queue()
    return queue.answers and not any(task.life in ("queued", "alive") for task in queue.tasks.values())


def try_script(script: Path) -> str:
    """What SLURM would do with a script, in its own words; nothing is submitted.

    Raises:
        SlurmError: It would refuse it, or does not answer.
    """
    done = _run_sbatch("--test-only", script)
    return " ".join((done.stderr or done.stdout).split())


def _sbatch(script: Path) -> str:
    done = _run_sbatch("--parsable", script)
    number = done.stdout.strip().splitlines()[-1].partition(";")[0]
    if not number.isdigit():
        raise SlurmError(f"sbatch timed out: its answer {done.stdout.strip()!r} holds no job number")
    return number


def _run_sbatch(option: str, script: Path) -> "subprocess.CompletedProcess[str]":
    text = script.read_text()
    chosen = {name: os.environ[name] for name, option in LEFT_OPEN.items() if name in os.environ and option not in text}
    try:
        done = subprocess.run(
            ["sbatch", option, str(script)],
            capture_output=True,
            text=True,
            timeout=SBATCH_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            env=environment() | chosen,
        )
    except FileNotFoundError as error:
        raise LaunchError("sbatch is not on PATH; launch from a login node of the cluster") from error
    except subprocess.TimeoutExpired as error:
        said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr or ""
        words = " ".join([f"sbatch did not answer within {SBATCH_TIMEOUT_S:.0f} s:", *said.split()]).rstrip(":")
        raise SlurmError(words) from error
    if done.returncode:
        raise SlurmError(" ".join(done.stderr.split()) or f"sbatch failed with exit code {done.returncode}")
    return done


def _looked_up(name: str, said: str, renew: Callable[[], None]) -> str | None:
    """The number of a job that SLURM took without saying so; None if it does not have it.

    Raises:
        UnansweredError: It does not answer this either.
    """
    unanswered: SlurmError | None = None
    for wait in LOOKUP_S:
        time.sleep(wait)
        renew()
        try:
            found, unanswered = find_job(name), None
        except SlurmError as error:
            found, unanswered = None, error
        if found is not None:
            return found
    if unanswered is None:
        return None
    raise UnansweredError(
        f"SLURM did not say whether it took the job {name} ({said}; {unanswered}); nothing is submitted in its place: "
        "launch again when SLURM answers"
    )
