"""What compiling blocks and computing activations twice cost or save: whole training steps, in turns.

A step is forward, backward and update of MuonH, in float32 on a CPU and bfloat16 on a GPU, over random tokens. The
baseline is the step as it is written, in the same turn. On a GPU the peak is what torch's allocator held at most in a
step, beside what it held before. On a CPU it is that of all tensors that one forward and backward pass made, noted as
they come and go; those of a compiled pass cannot be seen.

    python tests/benchmarks/training_step.py [--device cuda] [--repeats 15] [--json FILE]
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from model.compiling import compile_blocks
from model.config import (
    DataConfig,
    EvaluationConfig,
    Execution,
    ModelConfig,
    OptimizerConfig,
    Rates,
    ScheduleConfig,
    Seeds,
    TrainConfig,
)
from model.optimizer import DTYPES, make_optimizer
from model.transformer import Transformer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from live_bytes import LiveBytes
from timing import add_results, arguments, milliseconds, ratio, seconds

CPU_MODELS = {
    f"width {width}": ModelConfig(width=width, depth=4, head_size=32, kv_heads=2, vocab=256, context=256)
    for width in (64, 128)
}
GPU_MODELS = {f"d = {depth}": ModelConfig(width=128 * depth, depth=depth) for depth in (8, 12)}
SEQUENCES = {"cpu": 8, "cuda": 4}
RATES = Rates(hidden=1e-3, head=1e-3, embedding=1e-3, vector=1e-3)
WARM_UP = 3
WAYS = {
    "as written": {},
    "compiled": {"compile": "on"},
    "checkpointing": {"activation_checkpointing": "on"},
    "both": {"compile": "on", "activation_checkpointing": "on"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    model: str
    way: str
    step_s: tuple[float, ...]
    first_s: float
    """Time of the first step: of a compiled one, what compiling takes."""
    peak: float | None
    """Bytes."""


def configured(model: ModelConfig, device: str) -> TrainConfig:
    tokens = SEQUENCES[device] * model.context
    return TrainConfig(
        model=model,
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(),
        data=DataConfig(),
        evaluation=EvaluationConfig(),
        seed=Seeds(),
        rates=RATES,
        tokens=tokens,
        batch_tokens=tokens,
        precision="bfloat16" if device == "cuda" else "float32",
    )


def stepper(model: ModelConfig, device: str, execution: Execution) -> tuple[Callable[[], None], float | None]:
    """A function that makes a step, and the peak of a pass on a CPU."""
    config = configured(model, device)
    net = Transformer(
        model,
        RATES,
        seed=1,
        dtype=DTYPES[config.precision],
        checkpointing=execution.activation_checkpointing == "on",
    ).to(device)
    optimizer = make_optimizer(net, config)
    tokens_BT = torch.randint(0, model.vocab, (SEQUENCES[device], model.context), device=device)

    def passes() -> None:
        torch.autograd.backward(net(tokens_BT, targets_BT=tokens_BT))

    def step() -> None:
        optimizer.zero_grad()
        passes()
        optimizer.clip(config.optimizer.clip)
        optimizer.step(1.0)

    peak: float | None = None
    if device == "cpu" and execution.compile == "off":
        passes()  # gradients are there
        with LiveBytes() as live:
            passes()
        peak = live.peak
    if execution.compile == "on":
        compile_blocks(net, execution)
    return step, peak


def measured(device: str, repeats: int) -> Iterator[Row]:
    for name, model in (GPU_MODELS if device == "cuda" else CPU_MODELS).items():
        torch.compiler.reset()
        steps, peaks, firsts, times = {}, {}, {}, {way: [] for way in WAYS}
        # `compile_blocks` forgets what was compiled before it, so all are made before any is compiled.
        for way, execution in WAYS.items():
            steps[way], peaks[way] = stepper(model, device, Execution(device=device, **execution))
        for way, step in steps.items():
            firsts[way] = seconds(step, device)
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                seconds(step, device)
                peaks[way] = torch.cuda.max_memory_allocated() - before
        for turn in range(WARM_UP + repeats):
            for way, step in steps.items():
                took_s = seconds(step, device)
                if turn >= WARM_UP:
                    times[way].append(took_s)
        for way in WAYS:
            yield Row(model=name, way=way, step_s=tuple(times[way]), first_s=firsts[way], peak=peaks[way])


def main() -> None:
    given = arguments(__doc__, repeats=15).parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    found, written = [], None
    print("| model | step | ms | over as written | quartiles | peak over as written | first step, s |")
    print("|---|---|---|---|---|---|---|")
    for row in measured(given.device, given.repeats):
        written = row if row.way == "as written" else written
        assert written is not None
        key = f"training_step_{row.model}_{row.way}".replace(" ", "_").replace("=", "")
        over = ratio(key, row.step_s, written.step_s, given.device)
        peak = f"{row.peak / written.peak:.2f}" if row.peak and written.peak else "–"
        print(
            f"| {row.model} | {row.way} | {milliseconds(row.step_s):.1f} | {over.ratio:.3f} | "
            f"{over.low:.3f} – {over.high:.3f} | {peak} | {row.first_s:.1f} |",
            flush=True,
        )
        found.append(over)
    add_results(given.json, found)


if __name__ == "__main__":
    main()
