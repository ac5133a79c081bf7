"""The command line started as a program, as a person or a script starts it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

START = "import sys; sys.argv = ['sweeper', *sys.argv[1:]]; from sweeper.cli import main; main()"


def sweeper(
    *arguments: str, cwd: Path, code: str = START, path: Sequence[Path] = ()
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
