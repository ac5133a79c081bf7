"""Batches of a corpus as tensors, in an order that depends on the seed, the step and the row alone."""

# B sequences, T tokens of context; a tensor's name ends in its shape.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.config import DataConfig, ModelConfig, check
from model.corpus import Corpus, IntArray, StoredTokens, Tokens, check_corpus, key_of, read_corpus, shuffled

Batch = tuple[torch.Tensor, torch.Tensor]
"""inputs_BT and targets_BT, int64; the targets are the inputs one token later."""


def on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A part of a batch on a device.

    A GPU fetches it from pinned memory while the host goes on. From other memory the host would first wait until the
    GPU has done all that it was given before.
    """
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenData:
    """The training batches and the fixed validation set of a run; with no position: a resume needs the step alone."""

    corpus: Corpus
    context: int
    vocab: int
    seed: int
    """Of the order of the training sequences."""

    def batch(self, step: int, sequences: int, start: int = 0, stop: int | None = None) -> Batch:
        """Rows `start` to `stop` (default: all) of the global batch of `step`, which has `sequences` rows.

        Sequence n = step · sequences + row is the (n mod N)-th of its epoch n // N, in which each of the N sequences
        of the data comes once, shuffled by (seed, epoch). Neither ranks nor micro-batches have a part in it.

        Raises:
            ValueError: A token id that the model does not know.
        """
        stop = sequences if stop is None else stop
        check(0 <= start < stop <= sequences, f"rows {start} to {stop} do not lie in a batch of {sequences} sequences")
        stream = self.corpus.train
        numbers = np.arange(step * sequences + start, step * sequences + stop, dtype=np.int64)
        batch = self._tensors(stream, _order(numbers, stream.sequences(self.context), self.seed))
        if isinstance(stream, StoredTokens) and stream.ahead is not None:
            # What the next step takes from a disk comes while this one trains.
            stream.expect(_order(numbers + sequences, stream.sequences(self.context), self.seed), self.context)
        return batch

    def validation(
        self, sequences: int, per_batch: int = 16, start: int = 0, stop: int | None = None
    ) -> Iterator[Batch]:
        """Sequences `start` to `stop` (default: all) of the validation set, `per_batch` at a time.

        The set is the first `sequences` of a fixed shuffle of what is held out: the same for every run of a source,
        whatever its seed, and a larger set contains a smaller one.

        Raises:
            ValueError: Fewer than `sequences` are held out.
        """
        check_corpus(self.corpus, vocab=self.vocab, context=self.context, evaluation_sequences=sequences)
        stop = sequences if stop is None else stop
        held_out = self.corpus.validation
        numbers = _order(np.arange(start, stop, dtype=np.int64), held_out.sequences(self.context), None)
        if isinstance(held_out, StoredTokens):
            held_out.expect(numbers, self.context)
        for first in range(0, len(numbers), per_batch):
            yield self._tensors(held_out, numbers[first : first + per_batch])

    def _tensors(self, stream: Tokens, numbers: IntArray) -> Batch:
        windows = stream.windows(numbers, self.context)
        largest = int(windows.max(initial=0))
        check(
            largest < self.vocab,
            f"data={self.corpus.source} has the token id {largest}, but model.vocab is {self.vocab}; "
            f"set model.vocab to at least {largest + 1}",
        )
        window_BT = torch.from_numpy(windows)
        return window_BT[:, :-1].contiguous(), window_BT[:, 1:].contiguous()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StackedData:
    """The data of members whose order of training differs: each batch has one of each, shape (R, B, T)."""

    members: tuple[TokenData, ...]

    def batch(self, step: int, sequences: int, start: int = 0, stop: int | None = None) -> Batch:
        """As `TokenData.batch`, of every member."""
        inputs, targets = zip(*(data.batch(step, sequences, start, stop) for data in self.members), strict=True)
        return torch.stack(inputs), torch.stack(targets)

    def validation(
        self, sequences: int, per_batch: int = 16, start: int = 0, stop: int | None = None
    ) -> Iterator[Batch]:
        """As `TokenData.validation`: the same for all members."""
        return self.members[0].validation(sequences, per_batch, start, stop)


Data = TokenData | StackedData


def stacked(data: Sequence[TokenData]) -> Data:
    """The data of a stack whose members have these: shared where all read in the same order."""
    return data[0] if len({one.seed for one in data}) == 1 else StackedData(members=tuple(data))


def open_data(config: DataConfig, model: ModelConfig, seed: int) -> TokenData:
    """The data of a run of `model`, its training order given by `seed`.

    Raises:
        ValueError: Data that cannot be read, or that do not fit the model's vocabulary and context.
    """
    corpus = read_corpus(config, model.vocab, seed)
    check_corpus(corpus, vocab=model.vocab, context=model.context)
    return TokenData(corpus=corpus, context=model.context, vocab=model.vocab, seed=seed)


def _order(numbers: IntArray, length: int | None, seed: int | None) -> IntArray:
    """Which window is the n-th: by a shuffle of each epoch, unless the stream never ends and has an order itself."""
    if length is None:
        return numbers
    order = np.empty_like(numbers)
    epochs = numbers // length
    for epoch in np.unique(epochs).tolist():
        rows = epochs == epoch
        key = key_of("validation") if seed is None else key_of("epoch", seed, epoch)
        order[rows] = shuffled(numbers[rows] % length, length, key)
    return order
