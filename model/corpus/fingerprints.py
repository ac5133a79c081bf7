"""Content, not paths, names the data: a fingerprint that goes into the identity of a run."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.config import DataConfig, check
from model.corpus.chain import draw_transitions
from model.corpus.files import absolute, place, reading
from model.corpus.hf import hash_dataset, is_on_hub
from model.corpus.shards import Shard, find_shards, sampled
from model.corpus.text import find_text_files

LAYOUT = 1
"""Part of every fingerprint; raised when the same content would give other sequences (split, separators, order)."""


def fingerprint(config: DataConfig, vocab: int) -> str:
    """16 hexadecimal digits of the SHA-256 of the content that `config` names; needs no torch.

    Text is hashed whole, in the order in which it is read, with its tokenizer; its names and places are not. Of a
    shard, its side, token type, count and 16 blocks of 64 KiB (first, last, evenly spaced) are hashed: terabytes take
    seconds, and a change between those blocks goes unnoticed. Of `synthetic` it is the parameters of the chain and
    its first transitions. Of `hf` it is the commit of a dataset on the hub or samples of local files, and with them
    what makes tokens of the documents.

    Raises:
        ValueError: A file that is missing or unreadable, or a dataset on the hub without its commit.
    """
    digest = hashlib.sha256(f"{config.source} {LAYOUT}".encode())
    if config.source == "synthetic":
        parameters = (config.entropy_order, config.concentration, config.source_seed, vocab)
        digest.update(repr(parameters).encode())
        # Rounded: the last bits of a gamma variate depend on the machine's libm.
        first = draw_transitions(*parameters, rows=4)
        digest.update(np.rint(first * 2**16).astype("<i8").tobytes())
    elif config.source == "shards":
        for shard in find_shards(config):
            _hash_shard(digest, shard)
    elif config.source == "hf":
        digest.update(repr((config.column, config.shuffle_buffer)).encode())
        _hash_tokenizer(digest, config)
        hash_dataset(digest, config)
    else:
        if config.source == "text":
            _hash_tokenizer(digest, config)
        for path in find_text_files(config):
            with reading(path), path.open("rb") as file:
                digest.update(f"{path.suffix} {os.fstat(file.fileno()).st_size} ".encode())
                while block := file.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()[:16]


def with_fingerprint(config: DataConfig, vocab: int) -> DataConfig:
    """`config` with the fingerprint of its content and absolute paths, so that a job may run in another folder."""
    return replace(
        config,
        path=absolute(config.path) if config.path and not is_on_hub(config) else config.path,
        tokenizer=config.tokenizer if config.tokenizer == "bytes" else absolute(config.tokenizer),
        fingerprint=fingerprint(config, vocab),
    )


def check_fingerprint(config: DataConfig, vocab: int) -> None:
    """Refuse data that changed since `config` was planned.

    Raises:
        ValueError: The content has another fingerprint than `config.fingerprint`.
    """
    found = fingerprint(config, vocab)
    check(
        found == config.fingerprint,
        f"{place(config)} has the fingerprint {found}, but the run was planned with {config.fingerprint}; "
        "restore the data, or plan the sweep again",
    )


def _hash_tokenizer(digest: "hashlib._Hash", config: DataConfig) -> None:
    if config.tokenizer != "bytes":
        tokenizer = Path(absolute(config.tokenizer))
        with reading(tokenizer):
            digest.update(tokenizer.read_bytes())


def _hash_shard(digest: "hashlib._Hash", shard: Shard) -> None:
    digest.update(f"{shard.side} {shard.dtype.str} {shard.tokens} ".encode())
    if shard.tokens:
        for block in sampled(shard):
            digest.update(block.tobytes())
