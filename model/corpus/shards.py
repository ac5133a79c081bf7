"""Token files as llm.c writes them, or without a header: described, mapped and never read whole."""

import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np

from model.config import DataConfig, check
from model.corpus.files import find_files, place, reading
from model.corpus.streams import Side, StoredTokens, TokenArray, TokenType

HEADER_BYTES = 1024
"""An llm.c token file starts with 256 int32: magic, version, number of tokens, zeros."""
FORMATS: dict[int, tuple[int, TokenType]] = {20240520: (1, np.dtype("<u2")), 20240801: (7, np.dtype("<u4"))}
"""Version and token type by magic number: GPT-2's and Llama 3's files (github.com/karpathy/llm.c, dev/data)."""
SAMPLED_BLOCKS = 16
BLOCK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A file of tokens, described by its header or, without one, by its size."""

    path: Path
    dtype: TokenType
    offset: int
    """Bytes before the first token."""
    tokens: int
    side: Side
    """By its name: files with `val` in it are held out."""


def read_shards(config: DataConfig) -> tuple[StoredTokens, StoredTokens, int]:
    """Training tokens, held-out tokens (files with `val` in their name, else the tail) and ids' bound, as sampled."""
    shards = tuple(shard for shard in find_shards(config) if shard.tokens)
    train = _chained(tuple(shard for shard in shards if shard.side == "train"))
    validation = _chained(tuple(shard for shard in shards if shard.side == "validation"))
    check(train.total > 0, f"{place(config)} holds no training tokens; add a file without 'val' in its name")
    if not validation.total:
        boundary = train.total - round(train.total * config.validation)
        train, validation = replace(train, stop=boundary), replace(train, start=boundary)
    largest = max(int(block.max()) for shard in shards for block in sampled(shard))
    return train, validation, largest + 1


def find_shards(config: DataConfig) -> tuple[Shard, ...]:
    """The shards that `data.path` names, by path, with what their headers say."""
    return tuple(_describe(path, np.dtype(config.token_dtype)) for path in find_files(config, (".bin",)))


def _describe(path: Path, headerless: TokenType) -> Shard:
    with reading(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = np.frombuffer(file.read(HEADER_BYTES), dtype="<i4", count=min(size, HEADER_BYTES) // 4)
    check(size > 0, f"{path} is empty; remove it or write it again")
    side: Side = "validation" if "val" in path.name.lower() else "train"
    magic, version, count = (int(word) for word in header[:3]) if len(header) >= 3 else (0, 0, 0)
    if magic in FORMATS:
        expected, dtype = FORMATS[magic]
        check(
            version == expected,
            f"{path} has version {version} in its header, expected {expected}; write it again as llm.c does",
        )
        held = (size - HEADER_BYTES) // dtype.itemsize
        check(
            count >= 0 and HEADER_BYTES + count * dtype.itemsize == size,
            f"{path} holds {max(held, 0)} tokens, but its header says {count}; write it again",
        )
        return Shard(path=path, dtype=dtype, offset=HEADER_BYTES, tokens=count, side=side)
    looks_like_header = len(header) == 256 and not header[3:].any() and count > 0
    check(
        not (looks_like_header and size - HEADER_BYTES in (2 * count, 4 * count)),
        f"{path} has the magic number {magic} in its header, expected {' or '.join(map(str, FORMATS))}; "
        "write it again as llm.c does",
    )
    check(
        size % headerless.itemsize == 0,
        f"{path} has {size} bytes, no whole number of {headerless.name} tokens; set data.token_dtype",
    )
    return Shard(path=path, dtype=headerless, offset=0, tokens=size // headerless.itemsize, side=side)


def _chained(shards: tuple[Shard, ...]) -> StoredTokens:
    ends = tuple(accumulate(shard.tokens for shard in shards))

    @lru_cache(maxsize=64)  # a mapping holds a file descriptor: a thousand shards would use up the process's
    def mapped(index: int) -> tuple[mmap.mmap, TokenArray]:
        return _map(shards[index])

    def ahead(index: int, first: int, stop: int) -> None:
        shard = shards[index]
        begin = shard.offset + first * shard.dtype.itemsize
        page = begin - begin % mmap.PAGESIZE
        with suppress(OSError):  # only a wish: where it is not granted, the tokens are read when they are asked for
            mapped(index)[0].madvise(mmap.MADV_WILLNEED, page, shard.offset + stop * shard.dtype.itemsize - page)

    stop = ends[-1] if ends else 0
    return StoredTokens(ends=ends, segment=lambda index: mapped(index)[1], start=0, stop=stop, ahead=ahead)


def _map(shard: Shard) -> tuple[mmap.mmap, TokenArray]:
    """The file, and the tokens in it."""
    with reading(shard.path), shard.path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return mapped, np.frombuffer(mapped, shard.dtype, shard.tokens, shard.offset)


def sampled(shard: Shard) -> Iterator[TokenArray]:
    """Blocks of 64 KiB: the first, the last and 14 evenly spaced between; all tokens of a small shard."""
    _, tokens = _map(shard)
    length = BLOCK_BYTES // shard.dtype.itemsize
    if shard.tokens <= SAMPLED_BLOCKS * length:
        yield tokens
        return
    for block in range(SAMPLED_BLOCKS):
        start = block * (shard.tokens - length) // (SAMPLED_BLOCKS - 1)
        yield tokens[start : start + length]
