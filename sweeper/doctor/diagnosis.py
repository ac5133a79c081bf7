"""All probes in their order: this machine, the cluster, the profile, the folder, and a real job."""

import shutil
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from sweeper.doctor.finding import Finding, ok, problem, warning, within
from sweeper.doctor.job import job_findings, script_findings
from sweeper.doctor.packages import python_findings, torch_here
from sweeper.doctor.profile import judge_database, profile_findings, site_findings
from sweeper.doctor.site import Rights, Site, has_reservation, read_rights, read_site
from sweeper.doctor.storage import TIMEOUT_S, folder_findings, probe_writable, scratch_in
from sweeper.slurm import SlurmError, call
from sweeper.spec import Cluster

NEEDED = ("sbatch", "squeue", "scontrol", "scancel")
HELPFUL = ("sinfo", "sacct", "sacctmgr")


def diagnose(
    cluster: Cluster, runs: Path, *, quick: bool = False, wait_s: float = 300.0, tell: Callable[[str], None]
) -> Generator[Finding, None, None]:
    """Probe all that sweeps on a cluster rest on, finding by finding; nothing is left behind, also when interrupted.

    Args:
        runs: Folder of the results of all sweeps.
        quick: Submit no job.
        wait_s: How long the job may wait in the queue.
        tell: Called with what takes long.
    """
    scheduled = cluster.scheduler == "slurm"
    yield from python_findings()
    yield from torch_here(cluster)
    commands = judge_commands([name for name in (*NEEDED, *HELPFUL) if shutil.which(name) is None], scheduled=scheduled)
    yield commands
    site: Site | None = None
    if shutil.which("scontrol") is not None and shutil.which("sinfo") is not None:
        try:
            site = read_site()
        except SlurmError as error:
            yield judge_silence(str(error), scheduled=scheduled)
    if site is not None:
        yield from site_findings(site)
        yield from _database_findings(site)
        if scheduled:
            yield from _profile_findings(cluster, site)
    remedy = "choose another folder with --runs, or mend its permissions"
    (writable,) = within(TIMEOUT_S, "folder", "writable", lambda: probe_writable(runs), remedy)
    yield writable
    if writable.level != "ok":
        return
    with scratch_in(runs) as scratch:
        tries_job = scheduled and not quick and site is not None and commands.level == "ok"
        # A job shows better than the type of a filesystem whether other machines see it.
        yield from folder_findings(scratch, shared=scheduled and not tries_job)
        if not scheduled or site is None or commands.level == "problem":
            return
        refused = False
        for finding in script_findings(cluster, scratch):
            refused = refused or finding.level == "problem"
            yield finding
        if tries_job and not refused:
            yield from job_findings(cluster, scratch, site.settings, wait_s=wait_s, tell=tell)


def judge_commands(missing: list[str], *, scheduled: bool) -> Finding:
    """Whether SLURM's commands are here."""
    lacking = [name for name in NEEDED if name in missing]
    if not scheduled and lacking:
        return ok("slurm", "commands", "no SLURM here; runs are started on this machine")
    if lacking:
        remedy = "run this on a login node of the cluster, or add SLURM's folder to PATH"
        return problem("slurm", "commands", f"not on PATH: {', '.join(lacking)}", remedy)
    rest = f"; without {', '.join(missing)}" if missing else ""
    return ok("slurm", "commands", f"SLURM's commands are here{rest}", shutil.which("sbatch") or "")


def judge_silence(error: str, *, scheduled: bool) -> Finding:
    """A controller that does not answer matters where jobs are submitted."""
    if scheduled:
        remedy = "see `scontrol ping`; wait until it is back, or set SLURM_CONF"
        return problem("slurm", "controller", f"does not answer: {error}", remedy)
    remedy = "none is needed to run on this machine; for the cluster set SLURM_CONF, or wait until it is back"
    return warning("slurm", "controller", f"does not answer: {error}", remedy)


def _database_findings(site: Site) -> Iterator[Finding]:
    if not site.settings.accounting:
        return
    start = time.monotonic()
    try:
        call("sacct", "--noheader", "--allocations", "--starttime=now-1hours")
    except SlurmError as error:
        yield problem("slurm", "sacct", f"does not answer: {error}", "states come from squeue alone; tell the site")
        return
    yield judge_database(time.monotonic() - start)


def _profile_findings(cluster: Cluster, site: Site) -> Iterator[Finding]:
    rights, reserved = Rights(), False
    try:
        rights = read_rights(site.settings)
    except SlurmError as error:
        yield problem("profile", "account", f"cannot be checked: {error}", "see `sacctmgr show associations`")
    if cluster.slurm.reservation:
        try:
            reserved = has_reservation(cluster.slurm.reservation)
        except SlurmError as error:
            yield problem("profile", "reservation", f"cannot be checked: {error}", "see `scontrol show reservation`")
            return
    yield from profile_findings(cluster, site, rights, reserved=reserved)
