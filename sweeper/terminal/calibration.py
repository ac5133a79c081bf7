"""Measured speeds as they come."""

from typing import Any

from model.shape import model_shape
from sweeper.calibration import Calibrated, fits
from sweeper.spec import RunSpec, Sweep
from sweeper.terminal import console, count, counted


class Shown:
    """A line for each shape, and in the end what the profile should say."""

    def __init__(self, sweep: Sweep, *, quiet: bool) -> None:
        self.sweep, self.quiet = sweep, quiet
        self.rows: list[dict[str, Any]] = []

    def add(self, spec: RunSpec, measured: Calibrated) -> None:
        """Keep what was measured of runs like this one, and print it."""
        model, gpu = spec.train.model, self.sweep.cluster.gpu
        shape = model_shape(model)
        row = {
            "width": model.width,
            "depth": model.depth,
            "top_k": model.top_k if model.mlp == "moe" else None,
            "params": shape.params,
            "optimizer": spec.train.optimizer.name,
            "batch_tokens": spec.train.batch_tokens,
            "step_s": measured.step_s,
            "steps": measured.steps,
            "tokens_per_s": measured.tokens_per_s,
            "mfu": measured.tokens_per_s * shape.flops_per_token_causal / gpu.peak_flops,
            "device": measured.device,
        }
        self.rows.append(row)
        if self.quiet:
            return
        experts = f", top_k {model.top_k}" if model.mlp == "moe" else ""
        console.print(
            f"width {model.width}, depth {model.depth}{experts}, {row['optimizer']}, {count(spec.train.batch_tokens)} "
            f"tokens per step: {1e3 * measured.step_s:.4g} ms, {count(measured.tokens_per_s)} tokens/s, "
            f"{row['mfu']:.1%} of the peak of a {gpu.name}",
            soft_wrap=True,
            markup=False,
        )

    def end(self) -> None:
        """What the measurements are of, and who goes by them."""
        gpu = self.sweep.cluster.gpu
        device = self.rows[-1]["device"]
        if not fits(device, self.sweep.cluster):
            console.print(
                f"measured on {device}, but {self.sweep.name} is planned for {gpu.name}: plan goes on by the profile's "
                "throughput; measure on such a device",
                style="yellow",
                soft_wrap=True,
                markup=False,
            )
            return
        console.print(
            f"plan and launch of {self.sweep.name} go by {counted(len(self.rows), 'measured shape')} instead of mfu "
            f"{gpu.mfu:g}",
            soft_wrap=True,
            markup=False,
        )
