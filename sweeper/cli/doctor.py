"""The command that probes a machine, a cluster and a folder."""

import json
import signal
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli.arguments import EXIT_INTERRUPTED, SCHEMA_VERSION, AsJson, RunsFolder
from sweeper.errors import SweeperError

if TYPE_CHECKING:
    from sweeper.doctor import Finding


def doctor(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="CLUSTER", help="A profile and its overrides: h100 cluster.slurm.partition=gpu."),
    ] = None,
    runs: RunsFolder = Path("runs"),
    quick: Annotated[bool, typer.Option("--quick", help="Submit no job.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Minutes that the job may wait in the queue.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Probe this machine, a cluster and the folder of the runs: what is wrong, and what to do about it.

    Exit code 2 if anything would make runs fail; warnings alone are 0.

    Example: sweeper doctor cluster=h100 cluster.slurm.partition=gpu --quick
    """
    from sweeper.config import load_cluster
    from sweeper.doctor import diagnose
    from sweeper.terminal.doctor import print_finding, print_verdict, tell
    from sweeper.typed import plain

    cluster = load_cluster(overrides or [])
    findings: list[Finding] = []
    for number in (signal.SIGTERM, signal.SIGHUP):  # nothing is left behind, however it ends
        signal.signal(number, signal.default_int_handler)
    try:
        with closing(diagnose(cluster, runs, quick=quick, wait_s=60 * wait, tell=tell)) as found:
            for finding in found:
                if not as_json:
                    print_finding(finding, findings[-1].area if findings else None)
                findings.append(finding)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if as_json:
        report = {"schema_version": SCHEMA_VERSION, "cluster": cluster.name, "findings": plain(findings)}
        typer.echo(json.dumps(report))
    else:
        print_verdict(findings, cluster.name)
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(SweeperError.exit_code)
