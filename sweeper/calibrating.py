"""Time training steps of every shape of a sweep on this machine."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from model import corpus
from model.faults import fault
from model.trial import Timed, time_steps
from sweeper.calibration import Calibrated, step_key
from sweeper.errors import SweeperError
from sweeper.spec import RunSpec, Sweep


def calibrate(
    sweep: Sweep, specs: Sequence[RunSpec], *, steps: int, limit_s: float, show: Callable[[RunSpec, Calibrated], None]
) -> Iterator[Calibrated]:
    """The speed of each kind of step among the runs, one process alone on the device, the cheapest first.

    Args:
        sweep: Whose execution they train with.
        specs: Runs of our own trainer; others are left out.
        steps: To be timed of each kind.
        limit_s: After so long a kind is timed no further; 3 steps are timed in any case.
        show: Told of each as it is measured, with a run of that kind.

    Raises:
        SweeperError: A shape does not fit into memory, or the device is not there.
    """
    kinds: dict[str, RunSpec] = {}
    for spec in sorted(specs, key=lambda one: one.train.model.width**2 * one.train.batch_tokens):
        if spec.trainer.kind == "builtin":
            kinds.setdefault(step_key(spec.train, sweep.execution), spec)
    if not kinds:
        raise SweeperError(f"{sweep.name} has no runs of the builtin trainer; the speed of a command is its own matter")
    for key, spec in kinds.items():
        corpus.check_fingerprint(spec.train.data, spec.train.model.vocab)
        timed = _timed(spec, sweep, steps, limit_s)
        step_s = statistics.median(timed.steps_s)
        measured = Calibrated(
            key=key,
            device=timed.device,
            tokens_per_s=spec.train.batch_tokens / step_s,
            step_s=step_s,
            steps=len(timed.steps_s),
            time=time.time(),
            torch=timed.torch,
        )
        show(spec, measured)
        yield measured


def _timed(spec: RunSpec, sweep: Sweep, steps: int, limit_s: float) -> Timed:
    try:
        return time_steps(spec.train, sweep.execution, steps=steps, limit_s=limit_s)
    except ValueError as error:
        raise SweeperError(str(error)) from error
    except (RuntimeError, MemoryError) as error:
        if fault(error) != "memory":
            raise
        cell = ", ".join(f"{name}={value}" for name, value in spec.axes)
        raise SweeperError(
            f"run {spec.run_id} ({cell}) does not fit into the memory of this machine; set a smaller "
            "execution.micro_batch, or measure where it is to be trained"
        ) from error
