"""Commands of SLURM that answer from files and remember how they were called, for tests without a cluster."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ANSWERS = {
    "scontrol": 'case "$1$2" in showconfig) cat {root}/config;; showhostnames) echo "$3" | tr , "\\n";; esac',
    "squeue": "cat {root}/queue",
    "sacct": "cat {root}/accounts",
    "sinfo": "printf 'n1\\nn2\\nn3\\n'",
    "scancel": "true",
    "sbatch": "echo 99",
}


@dataclass(frozen=True, slots=True)
class FakeSlurm:
    """A folder of commands; put it first on PATH."""

    root: Path

    def queue(self, jobs: Mapping[str, tuple[str, ...]], number: int = 7, reason: str = "None") -> None:
        """Let squeue list the elements of arrays by job name, each with its state."""
        lines = [
            f"{number}|{index}|{state}|{reason}|{'n1' if state == 'RUNNING' else ''}|0|{name}"
            for name, states in jobs.items()
            for index, state in enumerate(states)
        ]
        (self.root / "queue").write_text("".join(line + "\n" for line in lines))

    def fall_silent(self) -> None:
        """Let no command get an answer any more."""
        for name in ANSWERS:
            self._write(name, "echo 'Socket timed out on send/recv operation' >&2; exit 1")

    def answer(self, name: str, answer: str) -> None:
        """Let a command run a line of shell."""
        self._write(name, answer)

    def accounts(self, *lines: str) -> None:
        """Let sacct print lines of JobID|JobName|State|ExitCode|NodeList|Submit."""
        (self.root / "accounts").write_text("".join(line + "\n" for line in lines))

    def calls(self, name: str) -> list[str]:
        """The words of each call of a command."""
        path = self.root / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.partition(" ")[2] for line in lines if line.partition(" ")[0] == name]

    def _write(self, name: str, answer: str) -> None:
        path = self.root / "bin" / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.root}/calls\n{answer}\n')
        path.chmod(0o755)


def fake_slurm(root: Path) -> FakeSlurm:
    """Commands below a folder: a cluster `toy` with accounting, an empty queue and the nodes n1 to n3."""
    made = FakeSlurm(root)
    (root / "bin").mkdir(parents=True)
    (root / "config").write_text("ClusterName = toy\nAccountingStorageType = accounting_storage/slurmdbd\n")
    (root / "queue").write_text("")
    (root / "accounts").write_text("")
    for name, answer in ANSWERS.items():
        made._write(name, answer.format(root=root))
    return made


def path_with(slurm: FakeSlurm) -> str:
    """PATH with the fake commands before all others."""
    return f"{slurm.root / 'bin'}{os.pathsep}{os.environ['PATH']}"
