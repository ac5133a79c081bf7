"""Python, its packages and torch: versions against what we need, and the CUDA that torch was built for."""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

import sweeper
from sweeper.doctor.finding import Area, Finding, ok, problem, warning
from sweeper.errors import ConfigError
from sweeper.spec import Cluster, Gpu
from sweeper.typed import build

DISTRIBUTION = "sweeper-lm"
IMPORT_TIMEOUT_S = 180.0
"""A first import of torch reads some gigabytes, on a cold network filesystem for minutes."""
MEMORY_SLACK = 0.97
"""A device shows a little less memory than its datasheet says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchFacts:
    """What torch says of itself and of the GPUs that its process sees."""

    version: str = ""
    """Empty where it cannot be imported."""
    error: str = ""
    """Why not."""
    cuda: str = ""
    """The CUDA (or ROCm) that it was built for; empty for a build without."""
    available: bool = False
    """Whether it can use a GPU."""
    devices: tuple[str, ...] = ()
    """Names of those that it sees."""
    memory_gib: float = 0.0
    """Of the first."""
    driver: str = ""
    """Version of NVIDIA's driver, by nvidia-smi; empty where there is none."""


def python_findings() -> tuple[Finding, ...]:
    """This interpreter and the packages that it brings."""
    return (judge_python(sys.version_info[:3]), *judge_packages(_requirements(), _installed))


def judge_python(version: tuple[int, int, int]) -> Finding:
    """Whether the interpreter is new enough."""
    text = ".".join(map(str, version))
    if version < (3, 11, 0):
        return problem(
            "python", "python", "too old: 3.11 is needed", "make an environment of Python 3.11 or newer", text
        )
    return ok("python", "python", sys.executable, text)


def judge_packages(requirements: Iterable[str], installed: Callable[[str], str]) -> tuple[Finding, ...]:
    """Packages that are missing or of a wrong version, else one finding that names all.

    Args:
        requirements: As distributions state them; those of an extra are left out.
        installed: The version of a package; empty where there is none.
    """
    found, bad = [], []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = installed(requirement.name)
        found.append(f"{requirement.name} {version}")
        remedy = f"pip install '{requirement.name}{requirement.specifier}'"
        if not version:
            bad.append(problem("python", requirement.name, "not installed", remedy))
        elif not requirement.specifier.contains(version, prereleases=True):
            bad.append(problem("python", requirement.name, f"not {requirement.specifier}", remedy, version))
    return tuple(bad) or (ok("python", "packages", "all there", ", ".join(found)),)


def torch_here(cluster: Cluster) -> tuple[Finding, ...]:
    """What torch is here, seen by a process of its own."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sweeper.doctor.node", "torch"],
            capture_output=True,
            text=True,
            timeout=IMPORT_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            cwd=Path(sweeper.__file__).resolve().parent.parent,
        )
        facts = build(TorchFacts, json.loads(done.stdout.splitlines()[-1]), "torch")
    except subprocess.TimeoutExpired:
        remedy = "move the environment to a faster disk; every process of every run imports it"
        return (problem("python", "torch", f"not imported within {IMPORT_TIMEOUT_S:.0f} s", remedy),)
    except (ConfigError, IndexError, ValueError):
        said = " ".join(done.stderr.split())[-300:]
        return (problem("python", "torch", f"its import ends the process: {said}", "install torch anew"),)
    return judge_torch(facts, "python", trains_here=cluster.scheduler == "local")


def judge_torch(
    facts: TorchFacts, area: Area, *, trains_here: bool, gpus: int = 0, gpu: Gpu | None = None
) -> tuple[Finding, ...]:
    """Whether torch can train where these facts come from.

    Args:
        trains_here: Whether runs are trained there; a login node may do without.
        gpus: How many GPUs each process should see.
        gpu: What the profile says of them.
    """
    needed = _torch_requirement()
    install = f"pip install 'torch{needed.specifier}' into the environment of the jobs"
    if not facts.version:
        if not trains_here and facts.error.startswith("ModuleNotFoundError"):
            return (ok(area, "torch", "not installed here, where nothing is trained"),)
        return (problem(area, "torch", f"cannot be imported: {facts.error}", install),)
    shown = f"{facts.version}, {f'CUDA {facts.cuda}' if facts.cuda else 'no CUDA'}"
    if not needed.specifier.contains(facts.version, prereleases=True):
        return (problem(area, "torch", f"not {needed.specifier}", install, shown),)
    return (ok(area, "torch", "can be imported", shown), *_judge_gpus(facts, area, gpus, gpu))


def _judge_gpus(facts: TorchFacts, area: Area, gpus: int, gpu: Gpu | None) -> tuple[Finding, ...]:
    if facts.driver and not facts.available:
        build_of = f"CUDA {facts.cuda}" if facts.cuda else "no CUDA"
        says = f"torch, built for {build_of}, cannot use the GPUs of the driver {facts.driver}"
        remedy = "install a build of torch for a CUDA that this driver supports (see nvidia-smi), or a newer driver"
        return (problem(area, "cuda", says, remedy, facts.driver),)
    seen = ", ".join(facts.devices) or "none"
    if gpus and not facts.devices:
        remedy = "set cluster.slurm.gpu_request to what the site asks for, and a partition that has GPUs"
        return (problem(area, "gpus", "a process sees no GPU", remedy, seen),)
    if not facts.devices:
        return ()
    found = []
    if gpus and len(facts.devices) != gpus:
        says = f"a process sees {len(facts.devices)} GPUs where {gpus} were asked for"
        found.append(warning(area, "gpus", says, "set cluster.slurm.gpus_per_node to what a node has", seen))
    else:
        found.append(ok(area, "gpus", f"{len(facts.devices)} visible, driver {facts.driver or 'unknown'}", seen))
    if gpu is not None and facts.memory_gib < MEMORY_SLACK * gpu.memory_gib:
        says = f"a GPU has {facts.memory_gib:.0f} GiB, and plans fill the {gpu.memory_gib:.0f} of the profile"
        remedy = f"set cluster.gpu.memory_gib={facts.memory_gib:.0f}"
        found.append(problem(area, "gpu memory", says, remedy, f"{facts.memory_gib:.0f} GiB"))
    if gpu is not None and gpu.name.lower() not in facts.devices[0].lower():
        remedy = "choose the profile of this GPU, or set cluster.gpu.peak_flops: hours are priced by it"
        found.append(warning(area, "gpu model", f"not the {gpu.name} of the profile", remedy, facts.devices[0]))
    return tuple(found)


def _requirements() -> tuple[str, ...]:
    try:
        return tuple(importlib.metadata.requires(DISTRIBUTION) or ())
    except importlib.metadata.PackageNotFoundError:
        return ()


def _torch_requirement() -> Requirement:
    extras = (Requirement(text) for text in _requirements())
    return next((each for each in extras if each.name == "torch"), Requirement("torch"))


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
