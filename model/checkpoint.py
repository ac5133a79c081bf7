"""Checkpoints on disk: written whole or not at all, verified when read, tied to the configuration that made them.

A checkpoint is one file `step-<step>-<digest>.pt` that plain `torch.load` opens; the digest in its name is the
SHA-256 of its content, for torch's own reader does not notice a flipped bit.
"""

import dataclasses
import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from model.config import TrainConfig

KEEP = 2
"""Checkpoints kept: the newest, and the one before it in case the newest is damaged."""

log = logging.getLogger(__name__)


def identity(config: TrainConfig) -> str:
    """Hash of everything in `config` that decides the losses: two runs that share it may share a checkpoint.

    Fields at their default are left out, as in a run's own identity: a new field orphans no checkpoint.
    """
    return hashlib.sha256(json.dumps(_scientific(config), sort_keys=True).encode()).hexdigest()


def _scientific(config: Any) -> dict[str, Any]:
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("scientific", True) and value != field.default:
            values[field.name] = _scientific(value) if dataclasses.is_dataclass(value) else value
    return values


def write_checkpoint(folder: Path, state: Mapping[str, Any], *, config: TrainConfig, step: int) -> Path:
    """Write `state` (tensors, numbers, text, nested) as the newest checkpoint, then drop all but the last two.

    The state is serialised in memory first, so that host memory holds it twice for a moment, and a full disk is met
    by one plain write.

    Raises:
        OSError: The file cannot be written (disk full, no permission); earlier checkpoints stay as they were.
    """
    buffer = io.BytesIO()
    torch.save({"identity": identity(config), "step": step, "state": dict(state)}, buffer)
    content = buffer.getbuffer()
    path = folder / f"step-{step:09d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    partial = path.with_suffix(".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(folder)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(
            f"cannot write the checkpoint {path} of {len(content) / 2**20:.1f} MiB: {error.strerror or error}; "
            "free space or mend permissions there, then launch again: the run resumes from its last checkpoint"
        ) from error
    _drop_old(folder)
    return path


def newest_checkpoint(folder: Path, config: TrainConfig) -> Path | None:
    """The newest checkpoint that is whole, or None; damaged ones are passed over with a warning.

    Raises:
        ValueError: The checkpoint belongs to another configuration.
    """
    for path in _newest_first(folder):
        if not _is_whole(path):
            log.warning("checkpoint %s is damaged; falling back to the one before it", path)
            continue
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["identity"]
        if found != identity(config):
            raise ValueError(
                f"checkpoint {path} belongs to another configuration (identity {found[:12]}, this run's is "
                f"{identity(config)[:12]}); move it away or give the run a folder of its own"
            )
        return path
    return None


def read_checkpoint(path: Path, device: torch.device) -> tuple[int, dict[str, Any]]:
    """Steps done and the state of the checkpoint at `path`, its tensors on `device`."""
    loaded = torch.load(path, map_location=device, weights_only=True)
    return loaded["step"], loaded["state"]


def delete_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run and what a killed writer left, then the folder unless it holds something else.

    A missing folder is no error.
    """
    for path in (*_newest_first(folder), *folder.glob("step-*.partial")):
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _newest_first(folder: Path) -> Iterator[Path]:
    # The step is zero-padded: names sort by it.
    yield from sorted(folder.glob("step-*-*.pt"), reverse=True)


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        return path.stem.endswith("-" + hashlib.file_digest(file, "sha256").hexdigest()[:16])


def _drop_old(folder: Path) -> None:
    old = list(_newest_first(folder))[KEEP:]
    for path in (*old, *folder.glob("step-*.partial")):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
