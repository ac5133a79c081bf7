"""What a scheduler's job calls: light to import, so that it is ready for signals before torch is read.

`python -m sweeper.worker_entry JOB RUN` is one process of a run in SLURM; submitit calls `run` on this machine.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any


class Stop:
    """A flag that SIGTERM, SIGUSR1 or SIGUSR2 raises; nothing else happens in a signal handler."""

    def __init__(self) -> None:
        self.received = 0
        """The number of the first signal: SIGUSR2 where the time limit is near, SIGTERM or SIGUSR1 else."""
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: Any) -> None:
        self.received = self.received or number

    def __call__(self) -> bool:
        return self.received != 0


def run(job_folder: str, run_ids: tuple[str, ...] = ()) -> None:
    """Carry out the job whose intent lies in `job_folder`, or some of its runs (`sweeper.worker.run`)."""
    stop = Stop()
    from sweeper.records import read_job

    gpus = read_job(Path(job_folder)).gpus
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    from sweeper import worker

    worker.run(job_folder, stop, run_ids)


if __name__ == "__main__":
    run(sys.argv[1], tuple(sys.argv[2:]))
