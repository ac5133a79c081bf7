"""Measured speeds of training steps, by what decides the cost of a step: `calibration.json` of a sweep's folder."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from model.config import Execution, TrainConfig
from sweeper.records import SweepFolder, read_json, write_json
from sweeper.spec import Cluster
from sweeper.typed import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """The speed of one kind of step on one kind of device."""

    key: str
    """`step_key` of the runs whose steps are such."""
    device: str
    """What was measured: `cpu`, or the model of a GPU as torch calls it."""
    tokens_per_s: float
    step_s: float
    """Median time of a step, seconds."""
    steps: int
    """Steps that were timed."""
    time: float
    """When, seconds since the epoch."""
    torch: str
    """Its version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationFile:
    """All that was measured of a sweep."""

    found: tuple[Calibrated, ...]


def step_key(train: TrainConfig, execution: Execution) -> str:
    """A hash of all that decides what a step of a run costs on one process of a device.

    Neither rates, seeds and schedule nor the number of steps; data are read while the device computes.
    """
    return _key(
        train.model,
        train.optimizer,
        train.precision,
        train.batch_tokens,
        execution.micro_batch,
        execution.activation_checkpointing,
        execution.compile,
        execution.threads,
        execution.triton,
    )


@lru_cache(maxsize=4096)
def _key(*parts: Any) -> str:
    text = json.dumps([plain(part) for part in parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_calibration(folder: SweepFolder, cluster: Cluster) -> Mapping[str, float]:
    """Tokens per second of one process by `step_key`, as measured on the cluster's kind of device (`fits`).

    Raises:
        SweeperError: The file cannot be read.
    """
    file = read_json(folder.path / "calibration.json", CalibrationFile)
    return {one.key: one.tokens_per_s for one in file.found if fits(one.device, cluster)} if file else {}


def fits(device: str, cluster: Cluster) -> bool:
    """Whether a device is what a cluster's runs are priced on, by the profile's `gpu.name`.

    >>> fits("cpu", Cluster()), fits("NVIDIA H100 80GB HBM3", Cluster())
    (True, False)
    """
    name = cluster.gpu.name.lower()
    return device == "cpu" if name.startswith("cpu") else name in device.lower()


def write_calibration(folder: SweepFolder, found: Sequence[Calibrated]) -> None:
    """Keep what was measured, in the place of what was measured of such steps on such a device before."""
    before = read_json(folder.path / "calibration.json", CalibrationFile)
    known = {(one.key, one.device): one for one in (*(before.found if before else ()), *found)}
    write_json(folder.path / "calibration.json", CalibrationFile(found=tuple(known.values())))
