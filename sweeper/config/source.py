"""A composed configuration that knows of each value which override, or which line of which file, it comes from."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from sweeper.config.locate import shown
from sweeper.config.overrides import Override


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A composed configuration, and where each of its values comes from."""

    values: Mapping[str, Any]
    overrides: tuple[Override, ...]
    files: tuple[tuple[Path, str], ...]
    """Every file with the path that its content is mounted at, in the order in which a later one wins."""

    @property
    def own(self) -> Mapping[str, Any]:
        """The values that the trainer declares, by name, as composed."""
        trainer = self.values.get("trainer")
        values = trainer.get("values") if isinstance(trainer, Mapping) else None
        return {str(name): value for name, value in values.items()} if isinstance(values, Mapping) else {}

    def chooses(self, group: str) -> bool:
        """Whether an option of the group was chosen, or the sweep file sets the group's settings itself."""
        *options, (sweep, mount) = self.files
        chosen = any(file.parent.name == group for file, _ in options)
        return chosen or _line_of(sweep, mount, group) is not None

    def says(self, path: str) -> bool:
        """Whether the sweep file or an override sets the value, rather than an option of a group."""
        sweep, mount = self.files[-1]
        return any(o.path == path for o in self.overrides) or _line_of(sweep, mount, path) is not None

    def place(self, path: str) -> str:
        """`sweeps/quickstart.yaml:12: lr`, or the override that set it; of a whole section, all that shaped it."""
        # A group (`model=tiny`) sets every key of its section, but not those of the file that it is laid under.
        exact = [
            o
            for o in self.overrides
            if o.path == path or (o.kind != "group" and path.startswith((f"{o.path}.", f"{o.path}[")))
        ]
        if exact:
            return exact[-1].place
        inside = [o.place for o in self.overrides if o.path.startswith(f"{path}.")]
        if inside:
            return f"{path} with {' and '.join(inside)}"
        for file, mount in reversed(self.files):
            line = _line_of(file, mount, path)
            if line is not None:
                return f"{shown(file)}:{line}: {path}"
        return f"{shown(self.files[-1][0])}: {path}"


def _line_of(file: Path, mount: str, path: str) -> int | None:
    """The line of a YAML file that sets `path`, or None; `mount` is the path of its content."""
    if mount:
        if path == mount:
            return 1
        if not path.startswith(f"{mount}."):
            return None
        path = path[len(mount) + 1 :]
    parts = re.split(r"\.|\[\d+\]", path)
    return _line_in(_nodes(file.read_text()), [part for part in parts if part])


@lru_cache(maxsize=64)
def _nodes(text: str) -> yaml.Node | None:
    """The tree of a YAML text, whose nodes know their lines."""
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _line_in(node: yaml.Node | None, parts: Sequence[str]) -> int | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    for key, value in node.value:
        for end in range(len(parts), 0, -1):
            if key.value == ".".join(parts[:end]):
                line: int = key.start_mark.line + 1
                return line if end == len(parts) else _line_in(value, parts[end:]) or line
    return None
