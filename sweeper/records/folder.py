"""The paths of a sweep on disk, and files that appear whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any, TypeVar

from sweeper.errors import ConfigError, DiskError, SweeperError
from sweeper.files import replacing
from sweeper.spec import RunSpec
from sweeper.typed import build, known_part, plain

T = TypeVar("T")


class SweepFolder:
    """The paths of one sweep; nothing is created before something is written."""

    def __init__(self, runs: Path, name: str) -> None:
        self.path = runs / name
        self.name = name

    @property
    def jobs(self) -> Path:
        return self.path / "jobs"

    @property
    def code(self) -> Path:
        return self.path / "code"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def fits(self) -> Path:
        return self.path / "fits"

    def run(self, run_id: str) -> Path:
        return self.path / "runs" / run_id

    def attempt(self, run_id: str, number: int) -> Path:
        return self.run(run_id) / "attempts" / str(number)


def names(path: Path) -> tuple[str, ...]:
    """The visible entries of a folder, sorted; none where there is no folder."""
    try:
        return tuple(sorted(entry.name for entry in os.scandir(path) if not entry.name.startswith(".")))
    except FileNotFoundError:
        return ()


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all (`DiskError`)."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """A dataclass or mapping as JSON, whole or not at all; NaN and infinities become null."""
    write_text(path, json.dumps(plain(value), indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, kind: type[T]) -> T | None:
    """The typed content of a file, or None where there is none.

    A queued job runs the code of its launch, which may be older than what wrote the file: what it does not know it
    passes over. Not so in the spec of a run, where every setting may decide the loss.

    Raises:
        SweeperError: The file is there but is not what it should be.
        DiskError: The disk does not give it, which may pass.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DiskError(f"{path}: cannot be read ({error.strerror or error}); try again, or mend the disk") from error
    except ValueError as error:
        raise SweeperError(f"{path}: not a readable record ({error}); move it away to run this cell again") from error
    try:
        return build(kind, values, str(path))
    except ConfigError as error:
        less = known_part(kind, values)
        if less == values:
            raise
        if kind is RunSpec:
            raise SweeperError(
                f"{error} (written by a newer version? launch the sweep again from one version)"
            ) from error
        return build(kind, less, str(path))
