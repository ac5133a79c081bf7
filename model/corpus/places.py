"""Places of a stream on disk, so that a reader need not start at its beginning; whoever comes by writes them down."""

import json
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
State = dict[str, Any]
"""Where a pass over a source stands: nested dicts of numbers and text, fit for JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a block starts: its number, the training tokens before it in its epoch, and the state of the source."""

    block: int = 0
    tokens: int = 0
    state: State | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Places of a source on disk, a file each, written whole by whichever reader comes by; all write the same."""

    folder: Path

    def nearest(self, tokens: int) -> Place:
        """The last known place at or before `tokens` of an epoch; a file that cannot be read is passed over."""
        for known in sorted((at for at in self._known() if at <= tokens), reverse=True):
            found = self._read(f"{known}.json")
            if found.keys() == {"block", "tokens", "state"}:
                return Place(**found)
        return Place()

    def total(self) -> int | None:
        """Training tokens of an epoch, if a reader has come to its end."""
        return self._read("total.json").get("tokens")

    def add(self, place: Place) -> None:
        """Keep a place."""
        self._write(f"{place.tokens}.json", {"block": place.block, "tokens": place.tokens, "state": place.state})

    def end(self, tokens: int) -> None:
        """Keep how many training tokens an epoch has."""
        self._write("total.json", {"tokens": tokens})

    def _known(self) -> list[int]:
        return [int(path.stem) for path in self.folder.glob("*.json") if path.stem.isdecimal()]

    def _read(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.folder / name).read_bytes())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def _write(self, name: str, value: dict[str, Any]) -> None:
        """Whole or not at all; a disk that takes nothing costs a resume time, not its result."""
        path = self.folder / name
        partial = path.with_name(f".{name}.{os.uname().nodename}-{os.getpid()}-{threading.get_ident()}")
        try:
            if self._read(name) == value:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(value))
            partial.replace(path)
        except OSError as error:
            log.warning("cannot write %s (%s): a resume will read the stream from an earlier place", path, error)
