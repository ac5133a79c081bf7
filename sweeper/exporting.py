"""The weights of a finished run for others to use: as safetensors, and as a Hugging Face checkpoint where one fits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sweeper
from model.checkpoint import read_final
from model.export import Dtype, Exported, Format, export
from sweeper.errors import DiskError, SweeperError
from sweeper.records import SweepFolder, read_record, read_spec
from sweeper.spec import RunSpec

__all__ = ["Dtype", "Exported", "Format", "export_run"]


def export_run(
    folder: SweepFolder,
    run_id: str,
    out: Path | None = None,
    *,
    form: Format = "both",
    folding: bool = True,
    dtype: Dtype = "float32",
) -> Exported:
    """Write the last weights of a run, scale vectors folded into its matrices.

    Args:
        out: Gets the folders `native` and `hf`; None takes `exports/<run_id>` in the sweep's folder.
        form: Which of them; `both` leaves `hf` out where no architecture of transformers computes the same.
        folding: Whether vectors are folded; a Hugging Face checkpoint always has them folded.
        dtype: Of the weights that are written.

    Raises:
        SweeperError: The run kept no weights, they are damaged, or `hf` was asked for and none fits.
        DiskError: Files cannot be read or written.
    """
    if not (folder.run(run_id) / "spec.json").exists():
        raise SweeperError(
            f"run {run_id} has not been launched; launch it with execution.checkpoint.keep_final=true, then export it"
        )
    spec = read_spec(folder, run_id)
    if spec.trainer.kind != "builtin":
        raise SweeperError(f"run {run_id} was trained by a program of your own, which keeps its weights itself")
    target = out or folder.path / "exports" / run_id
    about = {"sweeper_version": sweeper.__version__, "run_id": run_id, "sweep": spec.sweep}
    about["tokenizer"] = spec.train.data.tokenizer
    try:
        return export(_weights(folder, spec), spec.train, target, form=form, folding=folding, dtype=dtype, about=about)
    except ValueError as error:
        raise SweeperError(f"run {run_id}: {error}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DiskError(f"{target}: cannot be written ({reason}); free space or choose --out") from error


def _weights(folder: SweepFolder, spec: RunSpec) -> Mapping[str, Any]:
    run_id = spec.run_id
    try:
        return read_final(folder.run(run_id) / "checkpoint", spec.train)
    except FileNotFoundError as error:
        record = read_record(folder, run_id)
        if record is None:
            raise SweeperError(f"run {run_id} is not finished; `sweeper status` shows where it stands") from error
        if record.state == "diverged":
            raise SweeperError(f"run {run_id} diverged and kept no weights; export another") from error
        raise SweeperError(
            f"run {run_id} kept no weights: launch with execution.checkpoint.keep_final=true, in another folder "
            "(--runs) to train it again"
        ) from error
    except ValueError as error:
        raise SweeperError(f"{error}; train the run again in another folder (--runs)") from error
    except OSError as error:
        raise DiskError(f"{folder.run(run_id)}: its weights cannot be read ({error.strerror or error})") from error
