"""How long training waits for its data: a batch is made, and on a GPU fetched, against the step that it serves.

Of the quickstart's batches and of 512 × 4096 tokens from shards of 16 bits. The share is the time that making a batch
takes on the host over that of its step; on a CPU, where such a step takes minutes, over that of as many tokens in
smaller steps. On a GPU the host works ahead, so that less is waited for: steps with loading take turns there with steps
on batches that lie on the device already. The last line is about a disk whose pages no memory holds (they are dropped
before each turn): a batch without and with its pages asked for a second ahead, as training asks a step ahead.

    python tests/benchmarks/data_loading.py [--device cuda] [--repeats 20] [--json FILE]
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from timing import Ratio, add_results, arguments, in_turns, milliseconds, ratio, seconds

import sweeper
from model.config import DataConfig, Execution, ModelConfig, TrainConfig
from model.data import Batch, TokenData, on_device, open_data
from model.optimizer import DTYPES, make_optimizer
from model.transformer import Transformer
from model.trial import stepper

SEQUENCES, CONTEXT, VOCAB = 512, 4096, 32_000
SHARDS, SHARD_TOKENS = 4, 100_000_000
SMALL_SEQUENCES = 4
"""Of the smaller steps on a CPU."""
MICRO_BATCH = 16
"""Sequences of a pass on a GPU."""
STEP_S = 1.0
"""Given to the disk between two batches: of steps on so many tokens, a short one."""


def quickstart(device: str) -> TrainConfig:
    """A run of it, on a GPU in the precisions that are usual there."""
    train = sweeper.expand(sweeper.load_sweep("quickstart", []))[0].train
    if device == "cpu":
        return train
    return replace(train, precision="bfloat16", optimizer=replace(train.optimizer, ns_dtype="bfloat16"))


def large(train: TrainConfig, path: str, device: str) -> TrainConfig:
    """A batch of 2²¹ tokens: on a GPU for HyperP's model of depth 8, on a CPU for the quickstart's."""
    model = replace(ModelConfig() if device == "cuda" else train.model, context=CONTEXT, vocab=VOCAB)
    tokens = SEQUENCES * CONTEXT
    data = DataConfig(source="shards", path=path)
    return replace(train, model=model, data=data, batch_tokens=tokens, tokens=1000 * tokens)


def opened(train: TrainConfig) -> TokenData:
    return open_data(train.data, train.model, train.seed.data)


def loading(train: TrainConfig, repeats: int) -> list[float]:
    """Seconds of making a batch."""
    data = opened(train)
    for step in range(3):
        data.batch(step, train.batch_sequences)
    return [seconds(lambda n=n: data.batch(3 + n, train.batch_sequences), "cpu") for n in range(repeats)]


def stepping(train: TrainConfig, device: str, repeats: int) -> float:
    """Median seconds of a step, at least of its tokens' share of some smaller ones."""
    small = train
    if device == "cpu" and train.batch_sequences == SEQUENCES:
        small = replace(train, batch_tokens=SMALL_SEQUENCES * CONTEXT, tokens=1000 * SMALL_SEQUENCES * CONTEXT)
        repeats = min(repeats, 5)
    execution = Execution(device=device, micro_batch=MICRO_BATCH if train.batch_sequences == SEQUENCES else 0)
    step = stepper(small, execution)
    times = [step(number) for number in range(2 + repeats)][2:]
    return statistics.median(times) * train.batch_tokens / small.batch_tokens


def waiting(train: TrainConfig, device: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of some steps in a row with loading, and on batches that are there."""
    data, where = opened(train), torch.device(device)
    model = Transformer(train.model, train.rates, seed=1, dtype=DTYPES[train.precision]).to(where)
    optimizer = make_optimizer(model, train)
    sequences = train.batch_sequences
    size = min(MICRO_BATCH, sequences)
    there = tuple(on_device(part, where) for part in data.batch(0, sequences))
    in_a_row = 16 if sequences < SEQUENCES else 1

    def load(step: int, start: int) -> Batch:
        batch = data.batch(step, sequences, start, start + size)
        return on_device(batch[0], where), on_device(batch[1], where)

    def ready(_: int, start: int) -> Batch:
        return there[0][start : start + size], there[1][start : start + size]

    def steps(fetch: Callable[[int, int], Batch]) -> Callable[[int], None]:
        def work(turn: int) -> None:
            for number in range(in_a_row):
                optimizer.zero_grad()
                for start in range(0, sequences, size):
                    inputs_BT, targets_BT = fetch(turn * in_a_row + number, start)
                    torch.autograd.backward(model(inputs_BT, targets_BT=targets_BT) * (size / sequences))
                optimizer.clip(train.optimizer.clip)
                optimizer.step(1.0)

        return work

    return in_turns({"loading": steps(load), "ready": steps(ready)}, device, repeats)


def cold(train: TrainConfig, repeats: int) -> dict[str, list[float]]:
    """Seconds of making a batch whose pages no memory holds, and of one whose pages were asked for a second before."""
    found: dict[str, list[float]] = {"read when asked for": [], "read ahead": []}
    for turn in range(repeats):
        for place, (name, times) in enumerate(found.items()):
            data, step, wanted = opened(train), 2 * (2 * turn + place), []
            stream = data.corpus.train
            watched = replace(stream, ahead=lambda *piece, wanted=wanted: wanted.append(piece))
            replace(data, corpus=replace(data.corpus, train=watched)).batch(step, SEQUENCES)
            data = stream = watched = None  # a page that is mapped stays
            for path in Path(train.data.path).iterdir():
                _drop_pages(path)
            data = opened(train)
            if name == "read ahead":
                for piece in wanted:
                    data.corpus.train.ahead(*piece)
            time.sleep(STEP_S)
            times.append(seconds(lambda data=data, step=step: data.batch(step + 1, SEQUENCES), "cpu"))
    return found


def _drop_pages(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def rows(device: str, repeats: int, folder: str) -> Iterator[Ratio]:
    """Prints a line for each of them."""
    small = quickstart(device)
    generator = np.random.default_rng(0)
    for number in range(SHARDS):
        generator.integers(0, VOCAB, SHARD_TOKENS, dtype="<u2").tofile(Path(folder) / f"{number}.bin")
    big = large(small, folder, device)
    print("| batch | loading, ms | step, ms | share | waited for |\n|---|---|---|---|---|")
    for name, train in (("quickstart", small), ("512x4096", big)):
        times, step_s = loading(train, repeats), stepping(train, device, repeats)
        low, middle, high = (took_s / step_s for took_s in statistics.quantiles(times, n=4))
        waited = ""
        if device == "cuda":
            both = waiting(train, device, repeats if train is small else min(repeats, 5))
            over = ratio(f"data_loading_step_vs_ready_{name}", both["loading"], both["ready"], device)
            waited = f"{over.ratio - 1:.2%} ({over.low - 1:.2%} – {over.high - 1:.2%})"
            yield over
        size = f"{train.batch_sequences} × {train.model.context}"
        print(f"| {size} | {milliseconds(times):.2f} | {1000 * step_s:,.0f} | {middle:.3%} | {waited} |", flush=True)
        yield Ratio(name=f"data_loading_share_{name}", ratio=middle, low=low, high=high, device=device)
    times = cold(big, min(repeats, 7))
    asked, ahead = times["read when asked for"], times["read ahead"]
    over = ratio("data_loading_cold_vs_read_ahead", asked, ahead, device)
    print(f"\nFrom a cold disk {milliseconds(asked):.0f} ms, read ahead {milliseconds(ahead):.0f} ms: ", end="")
    print(f"{over.ratio:.0f} times as fast ({over.low:.0f} – {over.high:.0f})")
    yield over


def main() -> None:
    given = arguments(__doc__, repeats=20).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = list(rows(given.device, given.repeats, folder))
    add_results(given.json, found)


if __name__ == "__main__":
    main()
