"""Tokens in order: streams, and the windows that are taken from them by number.

A sequence of context T is a window of T + 1 tokens (inputs and the targets one to the right); windows start T apart, so
an epoch predicts each token once.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
TokenType = np.dtype[np.unsignedinteger[Any]]
TokenArray = npt.NDArray[np.unsignedinteger[Any]]
Side = Literal["train", "validation"]
"""The two streams of a corpus."""


class Tokens(Protocol):
    """A stream of tokens from which windows can be taken by number, in any order."""

    @property
    def total(self) -> int | None:
        """Tokens in the stream; None if it never ends."""

    def sequences(self, context: int) -> int | None:
        """Windows of context + 1 tokens, their starts `context` apart; None if they never end."""

    def windows(self, numbers: IntArray, context: int) -> IntArray:
        """The windows of these numbers, shape (len(numbers), context + 1)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredTokens:
    """The tokens `start` to `stop` of a chain of segments in memory or on disk; windows may cross segments."""

    ends: tuple[int, ...]
    """Tokens up to the end of each segment."""
    segment: Callable[[int], TokenArray]
    """The tokens of a segment by number."""
    start: int
    stop: int
    ahead: Callable[[int, int, int], None] | None = None
    """Told of tokens that are wanted soon: a segment, the first and the one behind the last; None where none is read
    from a disk.
    """

    @property
    def total(self) -> int:
        return self.stop - self.start

    def sequences(self, context: int) -> int:
        return max(0, self.total - 1) // context

    def windows(self, numbers: IntArray, context: int) -> IntArray:
        rows = np.empty((len(numbers), context + 1), dtype=np.int64)
        for row, number in zip(rows, numbers.tolist(), strict=True):
            self.read_into(row, number * context)
        return rows

    def expect(self, numbers: IntArray, context: int) -> None:
        """Have the windows of these numbers read from the disk while other things are done; it waits for nothing."""
        if self.ahead is not None:
            for number in numbers.tolist():
                for index, first, stop in self._pieces(number * context, context + 1):
                    self.ahead(index, first, stop)

    def read_into(self, out: IntArray, position: int) -> None:
        """Fill `out` with the tokens of this stream from `position` on."""
        filled = 0
        for index, first, stop in self._pieces(position, len(out)):
            out[filled : filled + stop - first] = self.segment(index)[first:stop]
            filled += stop - first

    def _pieces(self, position: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Where `length` tokens lie: of each segment its number, the first and the one behind the last."""
        position += self.start
        end = position + length
        index = bisect_right(self.ends, position)
        while position < end:
            begin = self.ends[index - 1] if index else 0
            stop = min(end, self.ends[index])
            yield index, position - begin, stop - begin
            position, index = stop, index + 1


def in_memory(segments: Iterable[TokenArray]) -> StoredTokens:
    """The segments as one stream, copied together."""
    whole = np.concatenate([np.empty(0, np.uint8), *segments])
    return StoredTokens(ends=(len(whole),), segment=lambda _: whole, start=0, stop=len(whole))
