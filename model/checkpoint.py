"""Checkpoints on disk: written whole or not at all, verified when read, tied to the configuration that made them.

A checkpoint is one file `step-<step>-<digest>.pt` that plain `torch.load` opens; the digest in its name is the
SHA-256 of its content, for torch's own reader does not notice a flipped bit. The weights of a finished run that are to
stay are `final-<digest>.pt`.
"""

import hashlib
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from model.config import CHECKPOINTS_KEPT, TrainConfig


def identity(config: TrainConfig) -> str:
    """Hash of everything in `config` that decides the losses: two runs that share it may share a checkpoint.

    Fields at their default are left out, as in a run's own identity: a new field orphans no checkpoint.
    """
    return hashlib.sha256(json.dumps(_scientific(config), sort_keys=True).encode()).hexdigest()


def _scientific(config: Any) -> dict[str, Any]:
    values = {}
    for one in fields(config):
        value = getattr(config, one.name)
        if one.metadata.get("scientific", True) and value != one.default:
            values[one.name] = _scientific(value) if is_dataclass(value) else value
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The checkpoint to resume from, and the newer ones that are of no use."""

    path: Path | None = None
    """The newest that is whole; None: there is none."""
    step: int = 0
    """Steps done at it."""
    damaged: Mapping[Path, str] = field(default_factory=dict)
    """What is wrong with each that was passed over."""


def newest_checkpoint(folder: Path, config: TrainConfig, up_to: int | None = None) -> Found:
    """The newest checkpoint that is whole and can be read; others are passed over, not deleted.

    Args:
        folder: Of the run.
        config: Of the run.
        up_to: Those of later steps are passed over too, without a word unless they are damaged.

    Raises:
        ValueError: The checkpoint belongs to another configuration.
        OSError: The folder itself cannot be listed.
    """
    damaged: dict[Path, str] = {}
    for path in _newest_first(folder):
        try:
            if not _is_whole(path):
                damaged[path] = "its content does not match the digest in its name"
                continue
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except OSError as error:
            damaged[path] = error.strerror or str(error)
            continue
        if found["identity"] != identity(config):
            raise ValueError(
                f"checkpoint {path} belongs to another configuration (identity {found['identity'][:12]}, this run's is "
                f"{identity(config)[:12]}); move it away or give the run a folder of its own"
            )
        if up_to is not None and found["step"] > up_to:
            continue
        return Found(path=path, step=found["step"], damaged=damaged)
    return Found(damaged=damaged)


def read_checkpoint(path: Path, device: torch.device) -> tuple[int, dict[str, Any]]:
    """Steps done and the state of the checkpoint at `path`, its tensors on `device`.

    On the host they are the file itself, mapped: the processes of a node share its pages, which the kernel may drop,
    and each reads what it takes. Eight copies of weights and moments would not fit beside each other.
    """
    loaded = torch.load(path, map_location=device, weights_only=True, mmap=True)
    return loaded["step"], loaded["state"]


def write_checkpoint(
    folder: Path, state: Mapping[str, Any], *, config: TrainConfig, step: int, damaged: Iterable[Path] = ()
) -> Path:
    """Write `state` (tensors, numbers, text, nested) as the newest checkpoint, then drop the damaged and old ones.

    Equal states give equal bytes. Nothing is held in memory beside the state.

    Args:
        folder: Of this run alone; made if need be.
        state: What `read_checkpoint` gives back.
        config: Of the run; its identity is written too.
        step: Steps done.
        damaged: Checkpoints that were passed over; what is left of the others are the last `CHECKPOINTS_KEPT`.

    Raises:
        OSError: The file cannot be written (disk full, no permission); earlier checkpoints stay as they were.
    """
    path = _write(folder, f"step-{step:09d}", {"identity": identity(config), "step": step, "state": dict(state)})
    for one in damaged:
        one.unlink(missing_ok=True)
    for one in list(_newest_first(folder))[CHECKPOINTS_KEPT:]:
        one.unlink(missing_ok=True)
    return path


def write_final(folder: Path, weights: Mapping[str, Tensor], *, config: TrainConfig) -> Path:
    """Write the weights of a finished run as `final-<digest>.pt`: a dict of `identity`, `step` and `model`.

    Raises:
        OSError: The file cannot be written.
    """
    path = _write(folder, "final", {"identity": identity(config), "step": config.steps, "model": dict(weights)})
    for one in folder.glob("final-*.pt"):
        if one != path:
            one.unlink(missing_ok=True)  # of an attempt that died before its result was safe
    return path


def read_final(folder: Path, config: TrainConfig) -> dict[str, Tensor]:
    """The weights of a finished run, on the CPU, by name.

    Raises:
        FileNotFoundError: None were kept.
        ValueError: They are damaged, or belong to another configuration.
        OSError: They cannot be read.
    """
    path = next(iter(sorted(folder.glob("final-*.pt"))), None)
    if path is None:
        raise FileNotFoundError(f"{folder}: no final weights")
    if not _is_whole(path):
        raise ValueError(f"{path} is damaged: its content does not match the digest in its name")
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if found["identity"] != identity(config):
        raise ValueError(f"{path} belongs to another configuration than the run's")
    weights: dict[str, Tensor] = found["model"]
    return weights


def delete_checkpoints(folder: Path, *, keep_final: bool) -> None:
    """Remove the checkpoints of a run and what a killed writer left, then the folder unless it holds something else.

    A missing folder is no error. `keep_final` leaves the last weights, where they were written.
    """
    final = () if keep_final else tuple(folder.glob("final-*.pt"))
    for path in (*_newest_first(folder), *_partials(folder), *final):
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _newest_first(folder: Path) -> Iterator[Path]:
    # The step is zero-padded: names sort by it.
    yield from sorted(folder.glob("step-*-*.pt"), reverse=True)


def _partials(folder: Path) -> tuple[Path, ...]:
    return (*folder.glob("step-*.partial"), *folder.glob("final-*.partial"))


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        return path.stem.endswith("-" + hashlib.file_digest(file, "sha256").hexdigest()[:16])


def _write(folder: Path, stem: str, content: Mapping[str, Any]) -> Path:
    """Write `<stem>-<digest>.pt`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in _partials(folder):  # by a killed writer; its space may be what this one needs
        left.unlink(missing_ok=True)
    partial = folder / f"{stem}-{socket.gethostname()}-{os.getpid()}.partial"
    try:
        with partial.open("wb") as file:
            hashing = _HashingFile(file)
            torch.save(dict(content), cast("BinaryIO", hashing))
            if hashing.error is not None:
                raise hashing.error
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"{stem}-{hashing.sha256.hexdigest()[:16]}.pt"
        partial.replace(path)
        _sync_folder(folder)
    finally:
        partial.unlink(missing_ok=True)
    return path


class _HashingFile:
    """A file to write to that hashes what passes through it.

    torch's writer turns an error that is raised under its hands into one of its own, without the system's number: the
    first is kept for the caller instead, and what follows it is dropped.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        if self.error is None:
            try:
                self.file.write(data)
                self.sha256.update(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Nothing: the caller flushes the file when the error, if any, is known."""


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
