"""The job that tends a sweep: a cycle a minute until every cell is terminal; at its time limit it requeues itself."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sweeper.errors import SweeperError
from sweeper.records import SweepFolder
from sweeper.slurm import SlurmError, requeue
from sweeper.submission import submit_keeper
from sweeper.supervisor import Signals
from sweeper.tend import tend

EVERY_S = float(os.environ.get("SWEEPER_KEEPER_S", "60"))
"""Between two cycles."""


def main(sweep_folder: str, every_s: float = EVERY_S) -> int:
    """Tend the sweep in a folder until it is over or this job is ended."""
    signals = Signals()
    path = Path(sweep_folder)
    folder = SweepFolder(path.parent, path.name)
    while not signals.stops:
        try:
            cycle = tend(folder)
        except (SweeperError, OSError) as error:  # a controller that restarts, a shaky disk: the next cycle will do
            print(f"{time.strftime('%F %T')} {error}", flush=True)
        else:
            for sentence in cycle.said:
                print(f"{time.strftime('%F %T')} {sentence}", flush=True)
            if cycle.over:
                print(f"{time.strftime('%F %T')} over: {dict(cycle.states)}", flush=True)
                return 0
        _sleep(every_s, signals)
    if signals.requeues:
        try:
            requeue(os.environ["SLURM_JOB_ID"])
        except SlurmError as error:
            print(f"this cluster does not requeue ({error}): handing over to job {_successor(folder)}", flush=True)
    return 1


def _successor(folder: SweepFolder) -> str:
    """Another keeper, for a cluster on which this one cannot put itself back."""
    try:
        return submit_keeper(folder, besides=os.environ["SLURM_JOB_ID"])
    except SweeperError as error:
        return f"none ({error}); submit another keeper: sweeper launch --keeper"


def _sleep(seconds: float, signals: Signals) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not signals.stops:
        time.sleep(min(1.0, seconds))


def run(arguments: Sequence[str]) -> None:
    """The command line of the keeper's script."""
    sys.exit(main(arguments[0]))


if __name__ == "__main__":
    run(sys.argv[1:])
