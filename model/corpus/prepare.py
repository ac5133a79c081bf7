"""A source of any kind written as shards, whole or not at all; the only module of the corpus that writes."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from model.config import DataConfig, check
from model.corpus.encoding import dtype_for, read_encoder, read_tokens
from model.corpus.files import absolute, place
from model.corpus.shards import FORMATS, HEADER_BYTES, find_shards, read_shards
from model.corpus.streams import Side, StoredTokens, TokenArray, TokenType

COPIED_AT_ONCE = 1 << 20
"""Tokens."""


def prepare_shards(
    config: DataConfig, folder: Path, shard_tokens: int = 100_000_000, vocab: int | None = None
) -> tuple[Path, ...]:
    """Write a source as llm.c token files, `train_000000.bin`, … and `val_000000.bin`, …: all of them or none.

    Reading `folder` back as `shards` gives the same tokens, sequences and batches. Memory stays bounded.

    Args:
        config: `python_source`, `text` or `shards`.
        folder: New or empty.
        shard_tokens: Tokens of a file, at most; llm.c counts them in an int32.
        vocab: If given, token ids must lie below it.

    Returns:
        The files, in the order in which they are read.

    Raises:
        ValueError: An endless source, a folder in use, data that cannot be read, or a disk that cannot be written.
    """
    check(config.source != "synthetic", "data=synthetic never ends; use it directly, or prepare text or python_source")
    check(0 < shard_tokens < 2**31, f"shard_tokens must lie between 1 and {2**31 - 1}, got {shard_tokens}")
    folder = Path(absolute(str(folder)))
    if config.source == "shards":
        _, _, needed = read_shards(config)
        dtype = max((shard.dtype for shard in find_shards(config)), key=lambda dtype: dtype.itemsize)
        stream = _stored_chunks(config, dtype)
    else:
        encoder = read_encoder(config)
        needed = encoder.vocab
        dtype = dtype_for(needed)
        stream = read_tokens(config, encoder)
    check(
        vocab is None or needed <= vocab,
        f"data={config.source} has token ids up to {needed - 1}, but the vocabulary is {vocab}; raise it to {needed}",
    )
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    with _writing(folder):
        check(
            not folder.exists() or (folder.is_dir() and not any(folder.iterdir())),
            f"{folder} already exists and is not empty; choose a new folder",
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        try:
            names = _write_shards(stream, partial, shard_tokens, dtype)
            for side in ("train", "val"):
                check(
                    any(name.startswith(side) for name in names),
                    f"{place(config)} leaves no {side} tokens at data.validation={config.validation}; "
                    "add text, or give a larger share (data.validation, or --validation of `sweeper data prepare`)",
                )
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return tuple(folder / name for name in names)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell a failure to write `path` as a ValueError of one sentence."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(
            f"cannot write {path}: {reason}; nothing was kept: free some space or choose another folder"
        ) from error


def _stored_chunks(config: DataConfig, dtype: TokenType) -> Iterator[tuple[Side, TokenArray]]:
    train, validation, _ = read_shards(config)
    streams: tuple[tuple[Side, StoredTokens], ...] = (("train", train), ("validation", validation))
    for side, stream in streams:
        for start in range(0, stream.total, COPIED_AT_ONCE):
            tokens = np.empty(min(COPIED_AT_ONCE, stream.total - start), dtype=np.int64)
            stream.read_into(tokens, start)
            yield side, tokens.astype(dtype)


def _write_shards(
    stream: Iterable[tuple[Side, TokenArray]], folder: Path, shard_tokens: int, dtype: TokenType
) -> tuple[str, ...]:
    """Cut each side's tokens into files of `shard_tokens`; their names, train before val."""
    written: dict[Side, list[int]] = {"train": [], "validation": []}
    """Tokens of each file."""
    with ExitStack() as stack:
        files: dict[Side, BinaryIO] = {}
        for side, tokens in stream:
            counts = written[side]
            while len(tokens):
                if side not in files or counts[-1] == shard_tokens:
                    if side in files:
                        _finish(files[side], counts[-1], dtype)
                    files[side] = stack.enter_context((folder / _shard_name(side, len(counts))).open("wb"))
                    files[side].write(bytes(HEADER_BYTES))
                    counts.append(0)
                piece = tokens[: shard_tokens - counts[-1]]
                files[side].write(piece.astype(dtype).tobytes())
                counts[-1] += len(piece)
                tokens = tokens[len(piece) :]
        for side, file in files.items():
            _finish(file, written[side][-1], dtype)
    return tuple(_shard_name(side, index) for side in written for index in range(len(written[side])))


def _shard_name(side: Side, index: int) -> str:
    return f"{'train' if side == 'train' else 'val'}_{index:06d}.bin"


def _finish(file: BinaryIO, tokens: int, dtype: TokenType) -> None:
    """Write the header over its place, and everything to the disk."""
    magic, version = next((magic, version) for magic, (version, of) in FORMATS.items() if of == dtype)
    header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    header[:3] = magic, version, tokens
    file.seek(0)
    file.write(header.tobytes())
    file.flush()
    os.fsync(file.fileno())
    file.close()
