"""The keys of a sweep file: its grid, the settings of its runs, and the sections beside them."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from model.config import Execution
from sweeper.spec import Base, Cluster, Launch, Question
from sweeper.typed import fields_of

GRID_KEYS = ("axes", "zip", "union", "derive", "where", "repeat")
BASE_KEYS = tuple(fields_of(Base))
CHOSEN_GROUPS = ("model", "optimizer", "transfer", "schedule", "data", "evaluation", "cluster")
"""The groups that every sweep chooses from, or sets itself: what they decide is never left to a default."""
SHARED_SECTIONS: Mapping[str, type] = {
    "cluster": Cluster,
    "execution": Execution,
    "launch": Launch,
    "question": Question,
}
"""What is said once for all runs."""
SWEEP_KEYS = (*BASE_KEYS, *GRID_KEYS, *SHARED_SECTIONS, "title", "scale", "scales", "arms")


def _settings(path: str, section: Any) -> Iterator[tuple[str, Any]]:
    """The settings of a section and of those inside it, by path."""
    for name, (kind, _) in fields_of(section).items():
        if dataclasses.is_dataclass(kind):
            yield from _settings(f"{path}.{name}", kind)
        else:
            yield f"{path}.{name}", kind


def _named_settings() -> dict[str, tuple[str, Any]]:
    settings = {"title": str} | dict(pair for section in SHARED_SECTIONS.items() for pair in _settings(*section))
    last = {path: path.rpartition(".")[2] for path in settings}
    uses = Counter(last.values())
    names = {path: path for path in settings} | {short: path for path, short in last.items() if uses[short] == 1}
    return {name: (path, settings[path]) for name, path in names.items()}


SHARED_SETTINGS: Mapping[str, tuple[str, Any]] = _named_settings()
"""Path and type of the settings that no axis may set, by path and, where it is no other's, by name: `threads`."""
