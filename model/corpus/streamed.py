"""Tokens of a source that can only be read from front to back: in an order of the seed's own, resumed where it was.

The documents are cut into blocks, which come in the order of the source; a seed shuffles the documents of each block,
anew in every epoch. So the number of training tokens before a block depends on no seed, and a place once written to
the index (tokens → state of the source) serves every run that reads the same documents.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from model.config import check
from model.corpus.ahead import ahead
from model.corpus.encoding import ENCODED_AT_ONCE, Encoder
from model.corpus.order import key_of, shuffled
from model.corpus.places import Index, Place, State
from model.corpus.streams import IntArray, Side, TokenArray
from model.corpus.text import Document, side_of

Pass = Iterator[tuple[Document, Callable[[], State]]]
"""Documents in order, each with what tells the state after it; to be asked before the next document is taken."""

BLOCK_BYTES = 1 << 28
"""A block ends after so much text, however few its documents: bounds memory where they are long."""
UNSHUFFLED_DOCUMENTS = 1000
"""Documents of a block whose order stays."""
PARTS_AHEAD = 16
"""Parts of `ENCODED_AT_ONCE` bytes that wait to be used: 64 MiB of text."""
PLACE_TOKENS = 1 << 26
"""Between two places of an index: 745 files for fifty billion tokens, and about the most that a resume reads again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Documents in one order, how they become tokens and how they are cut into blocks."""

    name: str
    """As an error names it."""
    read: Callable[[State | None], Pass]
    """A pass from the start, or from a state."""
    encoder: Encoder
    validation: float
    shuffle_buffer: int
    """Documents of a block; 0 keeps the order of the source."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Documents of one side of a block, as tokens; a block has one or more parts."""

    documents: list[TokenArray]
    ends_block: bool = False
    state: State | None = None
    """Of the source after the block; None at its end."""


def read_parts(source: Source, side: Side, state: State | None = None) -> Generator[Part, None, None]:
    """One side of the source, from its start or from the state at which a block starts."""
    waiting: list[Document] = []
    documents = size = waiting_size = 0
    for document, state_after in source.read(state):
        documents += 1
        size += len(document.content)
        if document.content and side_of(document.content, source.validation) == side:
            waiting.append(document)
            waiting_size += len(document.content)
        if documents == (source.shuffle_buffer or UNSHUFFLED_DOCUMENTS) or size >= BLOCK_BYTES:
            yield Part(documents=source.encoder.encode(waiting), ends_block=True, state=state_after())
            waiting, documents, size, waiting_size = [], 0, 0, 0
        elif waiting_size >= ENCODED_AT_ONCE:
            yield Part(documents=source.encoder.encode(waiting))
            waiting, waiting_size = [], 0
    yield Part(documents=source.encoder.encode(waiting), ends_block=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """Training documents of a block in an endless row of epochs."""

    epoch: int
    number: int
    start: int
    """Tokens before it, those of earlier epochs among them."""
    documents: list[TokenArray]
    whole: bool
    """False for a part that the next one continues."""


def read_blocks(source: Source, index: Index, position: int) -> Generator[_Block, None, None]:
    """The training documents, part by part, epoch after epoch, from a block at or before the token at `position`.

    Raises:
        ValueError: A source without training text.
    """
    total = index.total()
    epoch, within = divmod(position, total) if total else (0, position)
    place = index.nearest(within)
    before = epoch * (total or 0)
    while True:
        tokens = place.tokens
        for part in read_parts(source, "train", place.state):
            yield _Block(
                epoch=epoch,
                number=place.block,
                start=before + place.tokens,
                documents=part.documents,
                whole=part.ends_block,
            )
            tokens += sum(map(len, part.documents))
            if part.ends_block:
                new = Place(block=place.block + 1, tokens=tokens, state=part.state)
                if part.state and tokens // PLACE_TOKENS > place.tokens // PLACE_TOKENS:
                    index.add(new)
                place = new
        check(tokens > 0, f"{source.name} holds no text to train on; check data.path, data.split and data.column")
        index.end(tokens)
        epoch, before, place = epoch + 1, before + tokens, Place()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Held:
    """Tokens of a block in memory, in the order of the seed."""

    start: int
    tokens: TokenArray

    @property
    def stop(self) -> int:
        return self.start + len(self.tokens)


@dataclass(slots=True, kw_only=True, eq=False)
class StreamedTokens:
    """The training tokens of a source, epoch after epoch without end; any window can be had, the next one at once."""

    source: Source
    index: Index
    seed: int | None
    """Of the order within blocks; None keeps that of the source."""
    _held: deque[_Held] = field(default_factory=lambda: deque(maxlen=2), init=False)
    """The last two blocks with tokens: a window may start in the block before, in which the last window ended."""
    _coming: Iterator[_Block] | None = field(default=None, init=False)
    """What follows them, read and turned into tokens in the background."""

    @property
    def total(self) -> None:
        return None

    def sequences(self, context: int) -> None:  # noqa: ARG002 - of the protocol
        return None

    def windows(self, numbers: IntArray, context: int) -> IntArray:
        rows = np.empty((len(numbers), context + 1), dtype=np.int64)
        for row in np.argsort(numbers, kind="stable").tolist():
            position, filled = int(numbers[row]) * context, 0
            while filled < context + 1:
                held = self._find(position + filled)
                first = position + filled - held.start
                piece = held.tokens[first : first + context + 1 - filled]
                rows[row, filled : filled + len(piece)] = piece
                filled += len(piece)
        return rows

    def _find(self, position: int) -> _Held:
        """The block with the token at `position`: one in memory, the next ones, or one that the index leads to."""
        for held in self._held:
            if held.start <= position < held.stop:
                return held
        reached = self._held[-1].stop if self._held else 0
        if self._coming is None or not reached <= position <= reached + PLACE_TOKENS:
            self._held.clear()
            self._coming = ahead(read_blocks(self.source, self.index, position), PARTS_AHEAD)
        try:
            while True:
                held = self._next(self._coming)
                if len(held.tokens):
                    self._held.append(held)
                if held.start <= position < held.stop:
                    return held
        except BaseException:
            self._coming = None  # what failed is read again, not skipped
            raise

    def _next(self, coming: Iterator[_Block]) -> _Held:
        documents: list[TokenArray] = []
        for block in coming:
            documents += block.documents
            if block.whole:
                break
        order = np.arange(len(documents))
        if self.seed is not None and self.source.shuffle_buffer and documents:
            order = shuffled(order, len(order), key_of("block", self.seed, block.epoch, block.number))
        tokens = np.concatenate([np.empty(0, np.uint8), *(documents[i] for i in order.tolist())])
        return _Held(start=block.start, tokens=tokens)


@dataclass(slots=True, kw_only=True, eq=False)
class HeldOutTokens:
    """The held-out documents from the start of a source on, in its order; as many as were asked for stay in memory."""

    source: Source
    _tokens: TokenArray = field(default_factory=lambda: np.empty(0, np.uint8), init=False)

    @property
    def total(self) -> None:
        return None

    def sequences(self, context: int) -> None:  # noqa: ARG002 - of the protocol
        return None

    def windows(self, numbers: IntArray, context: int) -> IntArray:
        needed = (int(numbers.max(initial=-1)) + 1) * context + 1
        if needed > len(self._tokens):
            self._tokens = self._first(max(needed, 2 * len(self._tokens)))
        there = max(0, len(self._tokens) - 1) // context
        check(
            needed <= len(self._tokens),
            f"{self.source.name} holds out {there} validation sequences of {context} tokens, but evaluation.sequences "
            f"asks for {(needed - 1) // context}; "
            + (f"set evaluation.sequences={there} or " if there else "lower model.context or ")
            + "raise data.validation",
        )
        starts = numbers * context
        windows: IntArray = self._tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64)
        return windows

    def _first(self, count: int) -> TokenArray:
        """At least `count` tokens, or all there are."""
        found, size = [np.empty(0, np.uint8)], 0
        with closing(read_parts(self.source, "validation")) as parts:
            for part in parts:
                found += part.documents
                size += sum(map(len, part.documents))
                if size >= count:
                    break
        return np.concatenate(found)
