"""Where tokens come from, how they are split and how their content is named; numpy only, so that a login node can plan.

A corpus is two disjoint streams of tokens, `train` and `validation`. A sequence of context T is a window of T + 1
tokens (inputs and the targets one to the right); windows start T apart, so an epoch predicts each token once.
"""

import hashlib
import json
import mmap
import os
import shutil
import sysconfig
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from glob import glob, has_magic
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import numpy.typing as npt

from model.config import DataConfig, check

IntArray = npt.NDArray[np.int64]
UintArray = npt.NDArray[np.uint64]
TokenType = np.dtype[np.unsignedinteger[Any]]
FloatArray = npt.NDArray[np.float64]
TokenArray = npt.NDArray[np.unsignedinteger[Any]]
Side = Literal["train", "validation"]

LAYOUT = 1
"""Part of every fingerprint; raised when the same content would give other sequences (split, separators, order)."""


# Streams of tokens


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

    def read_into(self, out: IntArray, position: int) -> None:
        """Fill `out` with the tokens of this stream from `position` on."""
        position += self.start
        index = bisect_right(self.ends, position)
        filled = 0
        while filled < len(out):
            first = self.ends[index - 1] if index else 0
            piece = self.segment(index)[position + filled - first : position + len(out) - first]
            out[filled : filled + len(piece)] = piece
            filled += len(piece)
            index += 1


def _in_memory(segments: Iterable[TokenArray]) -> StoredTokens:
    whole = np.concatenate([np.empty(0, np.uint8), *segments])
    return StoredTokens(ends=(len(whole),), segment=lambda _: whole, start=0, stop=len(whole))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Corpus:
    """The two streams of a source, disjoint."""

    source: str
    train: Tokens
    validation: Tokens
    vocab: int
    """Token ids lie below this, as far as is known before every token is read."""

    @property
    def train_tokens(self) -> int | None:
        """Tokens to train on; None if they never end."""
        return self.train.total

    def epochs(self, tokens: float) -> float:
        """Passes over the training data that a budget of `tokens` makes; 0 for a source that never ends."""
        return tokens / self.train_tokens if self.train_tokens else 0.0


def read_corpus(config: DataConfig, vocab: int) -> Corpus:
    """The streams of a source: text in memory, shards mapped, `synthetic` made as it is asked for.

    Args:
        config: The source.
        vocab: Tokens that the model knows; the states of `synthetic`.

    Raises:
        ValueError: A file that is missing, unreadable or malformed, or a source without data.
    """
    if config.source == "synthetic":
        chain = _chain(config.entropy_order, config.concentration, config.source_seed, vocab)
        return Corpus(
            source=config.source,
            train=ChainTokens(chain=chain, key=key_of("train", config.source_seed)),
            validation=ChainTokens(chain=chain, key=key_of("validation", config.source_seed)),
            vocab=vocab,
        )
    if config.source == "shards":
        return _read_shards(config)
    sides: dict[Side, list[TokenArray]] = {"train": [], "validation": []}
    encoder = _encoder(config)
    for side, tokens in _encoded(config, encoder):
        sides[side].append(tokens)
    check(any(sides.values()), f"{_place(config)} holds no text; name files with content in data.path")
    return Corpus(
        source=config.source,
        train=_in_memory(sides["train"]),
        validation=_in_memory(sides["validation"]),
        vocab=encoder.vocab,
    )


def check_corpus(corpus: Corpus, *, vocab: int, context: int, evaluation_sequences: int = 0) -> None:
    """Refuse a corpus that a model cannot be trained or validated on.

    Raises:
        ValueError: Token ids beyond `vocab`, not one training sequence, or fewer validation sequences than asked.
    """
    check(
        corpus.vocab <= vocab,
        f"data={corpus.source} has token ids up to {corpus.vocab - 1}, but model.vocab is {vocab}; "
        f"set model.vocab={corpus.vocab}",
    )
    check(
        corpus.train.sequences(context) != 0,
        f"data={corpus.source} has {corpus.train.total} training tokens, not one sequence of model.context {context} "
        "and its target; add data or lower model.context",
    )
    there = corpus.validation.sequences(context)
    check(
        there is None or there >= evaluation_sequences,
        f"data={corpus.source} holds out {there} validation sequences of {context} tokens, but evaluation.sequences "
        f"is {evaluation_sequences}; "
        + (f"set evaluation.sequences={there} or hold out more" if there else "hold out more or lower model.context"),
    )


# Content, not paths, names the data


def fingerprint(config: DataConfig, vocab: int) -> str:
    """16 hexadecimal digits of the SHA-256 of the content that `config` names; needs no torch.

    Text is hashed whole, in the order in which it is read, with its tokenizer; its names and places are not. Of a
    shard, its side, token type, count and 16 blocks of 64 KiB (first, last, evenly spaced) are hashed: terabytes take
    seconds, and a change between those blocks goes unnoticed. Of `synthetic` it is the parameters of the chain and
    its first transitions.

    Raises:
        ValueError: A file that is missing or unreadable.
    """
    digest = hashlib.sha256(f"{config.source} {LAYOUT}".encode())
    if config.source == "synthetic":
        parameters = (config.entropy_order, config.concentration, config.source_seed, vocab)
        digest.update(repr(parameters).encode())
        # Rounded: the last bits of a gamma variate depend on the machine's libm.
        first = _transitions(*parameters, rows=4)
        digest.update(np.rint(first * 2**16).astype("<i8").tobytes())
    elif config.source == "shards":
        for shard in _shards(config):
            _hash_shard(digest, shard)
    else:
        if config.source == "text" and config.tokenizer != "bytes":
            tokenizer = Path(_absolute(config.tokenizer))
            with _reading(tokenizer):
                digest.update(tokenizer.read_bytes())
        for path in _text_files(config):
            with _reading(path), path.open("rb") as file:
                digest.update(f"{path.suffix} {os.fstat(file.fileno()).st_size} ".encode())
                while block := file.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()[:16]


def with_fingerprint(config: DataConfig, vocab: int) -> DataConfig:
    """`config` with the fingerprint of its content and absolute paths, so that a job may run in another folder."""
    return replace(
        config,
        path=_absolute(config.path) if config.path else "",
        tokenizer=config.tokenizer if config.tokenizer == "bytes" else _absolute(config.tokenizer),
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
        f"{_place(config)} has the fingerprint {found}, but the run was planned with {config.fingerprint}; "
        "restore the data, or plan the sweep again",
    )


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - a glob is no path to resolve


def _place(config: DataConfig) -> str:
    return f"data.path {config.path}" if config.path else f"data={config.source}"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).splitlines()[0].lower()
        raise ValueError(f"cannot read {path}: {reason}; check the path and its permissions") from error


# Text: documents, split by a hash of their content


TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet")
PIECES = 256
"""A file of plain text with more than two of this many parts of the whole text is cut at line ends into such parts."""
PIECE_BYTES = (1 << 10, 1 << 16)
"""Least and largest part: smaller ones break too many windows, larger ones make the held-out share uneven."""
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""Tokens that end a document, the first that a tokenizer knows; with bytes, NUL does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A piece of text that falls whole on one side of the split."""

    content: bytes
    ends: bool = True
    """Whether the text stops here; a part of a larger file goes on."""


def side_of(content: bytes, validation: float) -> Side:
    """The side of a document: held out if the hash of its content falls in the lowest share `validation`."""
    draw = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
    return "validation" if draw < validation * 2**64 else "train"


def _text_files(config: DataConfig) -> tuple[Path, ...]:
    """The files of `python_source` or `text`, in the order in which they are read: by relative path."""
    if config.source == "python_source":
        root = Path(sysconfig.get_path("stdlib"))
        found = _walk(root, (".py",), leave_out=frozenset({"site-packages", "dist-packages", "__pycache__"}))
        return tuple(path for path in found if path.is_file())  # distributions link to files that may not be installed
    found = _named_files(config, TEXT_SUFFIXES)
    for path in found:
        check(
            path.suffix in TEXT_SUFFIXES,
            f"{path} is none of {', '.join(TEXT_SUFFIXES)}; rename or convert it, or narrow data.path",
        )
    return found


def _named_files(config: DataConfig, suffixes: tuple[str, ...]) -> tuple[Path, ...]:
    """The files that `data.path` names: itself, those of the folder with a known suffix, or the matches of a glob."""
    path = Path(_absolute(config.path))
    if path.is_dir():
        found = _walk(path, suffixes)
        check(bool(found), f"data.path {config.path} holds no {' or '.join(suffixes)} file; name a folder that does")
        return found
    if path.exists() or not has_magic(config.path):
        found = (path,)
    else:
        matches = sorted(glob(str(path), recursive=True))  # noqa: PTH207 - the pattern may be absolute
        found = tuple(Path(name) for name in matches if Path(name).is_file())
        check(bool(found), f"data.path {config.path} matches no file; check the pattern")
    for each in found:
        check(each.exists(), f"data.path {config.path} does not exist; check the path")
    return found


def _walk(root: Path, suffixes: tuple[str, ...], leave_out: frozenset[str] = frozenset()) -> tuple[Path, ...]:
    found: list[str] = []
    with _reading(root):
        for folder, folders, names in os.walk(root, onerror=_raise, followlinks=True):
            folders[:] = [name for name in folders if name not in leave_out]
            found += (f"{folder}/{name}" for name in names if name.endswith(suffixes))
    return tuple(map(Path, sorted(found)))


def _raise(error: OSError) -> None:
    raise error


def _documents(config: DataConfig) -> Iterator[Document]:
    files = _text_files(config)
    if config.source == "python_source":
        for path in files:
            with _reading(path):
                yield Document(content=path.read_bytes())
        return
    with _reading(Path(config.path)):
        whole = sum(path.stat().st_size for path in files)
    piece = min(max(whole // PIECES, PIECE_BYTES[0]), PIECE_BYTES[1])
    for path in files:
        if path.suffix == ".txt":
            yield from _plain_documents(path, piece)
        elif path.suffix == ".jsonl":
            yield from _jsonl_documents(path, config.column)
        else:
            yield from _parquet_documents(path, config.column)


def _plain_documents(path: Path, piece: int) -> Iterator[Document]:
    """The file as one document, or cut at line ends (else at spaces, else between characters) if it is a large one."""
    with _reading(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            start = 0
            while start < size:
                stop = _cut(text, start, piece) if size - start > 2 * piece else size
                content = text[start:stop]
                try:
                    content.decode()
                except UnicodeDecodeError as error:
                    raise ValueError(
                        f"{path} is not UTF-8 (byte 0x{content[error.start]:02x} at offset {start + error.start}); "
                        "convert it"
                    ) from error
                yield Document(content=content, ends=stop == size)
                start = stop


def _cut(text: mmap.mmap, start: int, piece: int) -> int:
    for separator in (b"\n", b" "):
        found = text.find(separator, start + piece - 1, start + 2 * piece)
        if found >= 0:
            return found + 1
    stop = start + piece
    while stop > start + 1 and text[stop] & 0xC0 == 0x80:  # a UTF-8 character goes on here
        stop -= 1
    return stop


def _jsonl_documents(path: Path, column: str) -> Iterator[Document]:
    with _reading(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}:{number} is not UTF-8 ({error.reason}); convert the file") from error
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number} is not JSON ({error.msg.lower()}); mend the line") from error
            check(isinstance(record, dict), f"{path}:{number} is no JSON object; write one object a line")
            check(
                isinstance(record.get(column), str),
                f"{path}:{number} has no text in the field {column!r}, only {', '.join(record) or 'nothing'}; "
                "set data.column",
            )
            yield Document(content=record[column].encode(errors="replace"))


def _parquet_documents(path: Path, column: str) -> Iterator[Document]:
    import pyarrow
    from pyarrow import parquet

    try:
        with _reading(path), parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            check(column in names, f"{path} has no column {column!r}, only {', '.join(names)}; set data.column")
            row = 0
            for batch in file.iter_batches(columns=[column]):
                for value in batch.column(0).to_pylist():
                    check(
                        isinstance(value, str),
                        f"{path} has no text in row {row} of column {column!r}, got {value!r:.40}; mend that row",
                    )
                    yield Document(content=value.encode())
                    row += 1
    except pyarrow.ArrowInvalid as error:
        raise ValueError(
            f"{path} is no readable parquet file ({str(error).splitlines()[0].lower()}); write it again"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """How text becomes tokens."""

    vocab: int
    """Token ids lie below this."""
    encode: Callable[[list[Document]], list[TokenArray]]


def _encoder(config: DataConfig) -> Encoder:
    if config.source == "python_source" or config.tokenizer == "bytes":
        return Encoder(vocab=256, encode=_as_bytes)
    return _tokenizer(config.tokenizer)


def _as_bytes(documents: list[Document]) -> list[TokenArray]:
    return [np.frombuffer(document.content + b"\0" * document.ends, dtype=np.uint8) for document in documents]


def _tokenizer(name: str) -> Encoder:
    path = Path(_absolute(name))
    check(path.is_file(), f"data.tokenizer {name} does not exist; name a tokenizer.json file, or bytes")
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ValueError(
            f"data.tokenizer {name} needs the package tokenizers; install it with pip install 'sweeper-lm[data]'"
        ) from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exception
        raise ValueError(f"data.tokenizer {name} is no tokenizers file ({error}); name a tokenizer.json") from error
    known: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    vocab = max(known.values(), default=0) + 1
    end = [known[token] for token in END_OF_TEXT if token in known][:1]
    dtype = _dtype_for(vocab)

    def encode(documents: list[Document]) -> list[TokenArray]:
        texts = [document.content.decode(errors="replace") for document in documents]
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
        return [
            np.array(each + end if document.ends else each, dtype=dtype)
            for each, document in zip(ids, documents, strict=True)
        ]

    return Encoder(vocab=vocab, encode=encode)


def _dtype_for(vocab: int) -> TokenType:
    return np.dtype("<u2") if vocab <= 1 << 16 else np.dtype("<u4")


ENCODED_AT_ONCE = 1 << 22
"""Bytes of text that are turned into tokens together: bounds memory, and keeps a tokenizer's threads busy."""


def _encoded(config: DataConfig, encoder: Encoder) -> Iterator[tuple[Side, TokenArray]]:
    """The tokens of each document with its side, in order."""
    waiting: list[Document] = []
    size = 0
    for document in _documents(config):
        if not document.content:
            continue
        waiting.append(document)
        size += len(document.content)
        if size >= ENCODED_AT_ONCE:
            yield from _sided(waiting, encoder, config.validation)
            waiting, size = [], 0
    yield from _sided(waiting, encoder, config.validation)


def _sided(documents: list[Document], encoder: Encoder, validation: float) -> Iterator[tuple[Side, TokenArray]]:
    for document, tokens in zip(documents, encoder.encode(documents), strict=True):
        yield side_of(document.content, validation), tokens


# Shards: memory-mapped token files


HEADER_BYTES = 1024
"""An llm.c token file starts with 256 int32: magic, version, number of tokens, zeros."""
FORMATS: dict[int, tuple[int, TokenType]] = {20240520: (1, np.dtype("<u2")), 20240801: (7, np.dtype("<u4"))}
"""Version and token type by magic number: GPT-2's and Llama 3's files (github.com/karpathy/llm.c, dev/data)."""
COPIED_AT_ONCE = 1 << 20
"""Tokens."""
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


def _shards(config: DataConfig) -> tuple[Shard, ...]:
    return tuple(_describe(path, np.dtype(config.token_dtype)) for path in _named_files(config, (".bin",)))


def _describe(path: Path, headerless: TokenType) -> Shard:
    with _reading(path), path.open("rb") as file:
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


def _map(shard: Shard) -> TokenArray:
    with _reading(shard.path):
        return np.asarray(np.memmap(shard.path, shard.dtype, mode="r", offset=shard.offset, shape=(shard.tokens,)))


def _read_shards(config: DataConfig) -> Corpus:
    train, validation, vocab = _shard_streams(config)
    return Corpus(source=config.source, train=train, validation=validation, vocab=vocab)


def _shard_streams(config: DataConfig) -> tuple[StoredTokens, StoredTokens, int]:
    """Training tokens, held-out tokens (files with `val` in their name, else the tail) and ids' bound, as sampled."""
    shards = tuple(shard for shard in _shards(config) if shard.tokens)
    train = _chained(tuple(shard for shard in shards if shard.side == "train"))
    validation = _chained(tuple(shard for shard in shards if shard.side == "validation"))
    check(train.total > 0, f"{_place(config)} holds no training tokens; add a file without 'val' in its name")
    if not validation.total:
        boundary = train.total - round(train.total * config.validation)
        train, validation = replace(train, stop=boundary), replace(train, start=boundary)
    largest = max(int(block.max()) for shard in shards for block in _sampled(shard))
    return train, validation, largest + 1


def _chained(shards: tuple[Shard, ...]) -> StoredTokens:
    ends = tuple(accumulate(shard.tokens for shard in shards))

    @lru_cache(maxsize=64)  # a mapping holds a file descriptor: a thousand shards would use up the process's
    def segment(index: int) -> TokenArray:
        return _map(shards[index])

    return StoredTokens(ends=ends, segment=segment, start=0, stop=ends[-1] if ends else 0)


def _sampled(shard: Shard) -> Iterator[TokenArray]:
    """Blocks of 64 KiB: the first, the last and 14 evenly spaced between; all tokens of a small shard."""
    tokens = _map(shard)
    length = BLOCK_BYTES // shard.dtype.itemsize
    if shard.tokens <= SAMPLED_BLOCKS * length:
        yield tokens
        return
    for block in range(SAMPLED_BLOCKS):
        start = block * (shard.tokens - length) // (SAMPLED_BLOCKS - 1)
        yield tokens[start : start + length]


def _hash_shard(digest: "hashlib._Hash", shard: Shard) -> None:
    digest.update(f"{shard.side} {shard.dtype.str} {shard.tokens} ".encode())
    if shard.tokens:
        for block in _sampled(shard):
            digest.update(block.tobytes())


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
    folder = Path(_absolute(str(folder)))
    if config.source == "shards":
        _, _, needed = _shard_streams(config)
        dtype = max((shard.dtype for shard in _shards(config)), key=lambda dtype: dtype.itemsize)
        stream = _stored_chunks(config, dtype)
    else:
        encoder = _encoder(config)
        needed = encoder.vocab
        dtype = _dtype_for(needed)
        stream = _encoded(config, encoder)
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
                    f"{_place(config)} leaves no {side} tokens at data.validation={config.validation}; "
                    "add text or change that share",
                )
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return tuple(folder / name for name in names)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(
            f"cannot write {path}: {reason}; nothing was kept: free some space or choose another folder"
        ) from error


def _stored_chunks(config: DataConfig, dtype: TokenType) -> Iterator[tuple[Side, TokenArray]]:
    train, validation, _ = _shard_streams(config)
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


# Numbers from a seed and a counter, the same on every machine and in any order


def key_of(*parts: str | int) -> int:
    """A 62-bit number that names `parts`; different parts give unrelated numbers."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 2


def mixed(values: UintArray) -> UintArray:
    """A bijection of 64-bit numbers that scatters neighbours: the finaliser of SplitMix64 (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""The increment of SplitMix64's counter: 2⁶⁴ over the golden ratio, odd."""
FEISTEL_ROUNDS = 6
"""Four make a pseudo-random permutation (Luby and Rackoff 1988); two more for short halves."""


def shuffled(positions: IntArray, length: int, key: int) -> IntArray:
    """Where a permutation of 0 … length − 1 puts `positions`, without ever holding the permutation.

    A Feistel network on the next even power of two, walked along its cycle until it falls below `length`.

    >>> sorted(shuffled(np.arange(5), 5, key=1).tolist())
    [0, 1, 2, 3, 4]
    """
    half = np.uint64(max(1, ((length - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    round_keys = mixed(np.uint64(key) + np.arange(1, FEISTEL_ROUNDS + 1, dtype=np.uint64) * GOLDEN_GAMMA)

    def step(values: UintArray) -> UintArray:
        left, right = values >> half, values & mask
        for round_key in round_keys:
            left, right = right, left ^ (mixed(right + round_key) & mask)
        return (left << half) | right

    values = step(positions.astype(np.uint64))
    while (outside := values >= length).any():
        values[outside] = step(values[outside])
    return values.astype(np.int64)


# A Markov chain whose entropy rate is known


CHAIN_LIMIT = 1 << 24
"""Transitions of a chain, at most: 128 MB."""
UNIFORM_SHARE = 0.01
"""Share of every row that is uniform: every state is reached, so the stationary distribution is unique."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chain:
    """A Markov chain of order k over V states, stationary, with rows drawn from a Dirichlet distribution.

    A context (x₁ … x_k) is numbered in base V, the oldest token first.
    """

    order: int
    states: int
    steps: FloatArray
    """c plus the cumulative distribution after context c, rising over all contexts; shape (V^k · V,)."""
    start: FloatArray
    """Cumulative stationary distribution of the contexts, shape (V^k,)."""
    entropy_rate: float
    """Nats per token."""


def entropy_rate(config: DataConfig, vocab: int) -> float:
    """The loss, in nats per token, that no model of `synthetic` can beat: H = −Σ_c π(c) Σ_x P(x|c) ln P(x|c).

    π is the stationary distribution of the contexts c (Cover and Thomas, Elements of Information Theory, theorem
    4.2.4). A sequence of context T reaches it at all but its first `entropy_order` − 1 targets, whose past is cut off.

    Raises:
        ValueError: A source that is not synthetic, or a chain of too many transitions.
    """
    check(config.source == "synthetic", f"the entropy rate of data={config.source} is unknown; use data=synthetic")
    return _chain(config.entropy_order, config.concentration, config.source_seed, vocab).entropy_rate


def _transitions(order: int, concentration: float, seed: int, vocab: int, rows: int | None = None) -> FloatArray:
    """The first `rows` (or all) rows of P(x|c), shape (rows, V)."""
    transitions = vocab ** (order + 1)
    check(
        transitions <= CHAIN_LIMIT,
        f"a chain of order {order} over {vocab} states has {transitions} transitions, more than {CHAIN_LIMIT}; "
        f"set model.vocab to at most {_largest_states(order)} or lower data.entropy_order",
    )
    check(vocab >= 2, f"a chain over {vocab} state has nothing to predict; raise model.vocab")
    rng = np.random.default_rng(key_of("chain", seed))
    contexts = min(rows or vocab**order, vocab**order)
    drawn = rng.dirichlet(np.full(vocab, concentration), size=contexts)
    return (1 - UNIFORM_SHARE) * drawn + UNIFORM_SHARE / vocab


def _largest_states(order: int) -> int:
    states: int = round(CHAIN_LIMIT ** (1 / (order + 1)))
    return states if states ** (order + 1) <= CHAIN_LIMIT else states - 1


@lru_cache(maxsize=2)
def _chain(order: int, concentration: float, seed: int, vocab: int) -> Chain:
    P = _transitions(order, concentration, seed, vocab)
    contexts = vocab**order
    pi = _stationary(P, vocab, order)
    steps = np.cumsum(P, axis=1)
    steps[:, -1] = 1.0
    steps += np.arange(contexts)[:, None]
    start = np.cumsum(pi)
    start[-1] = 1.0
    rate = -float(pi @ np.einsum("cx,cx->c", P, np.log(P)))
    return Chain(order=order, states=vocab, steps=steps.ravel(), start=start, entropy_rate=rate)


def _stationary(P: FloatArray, vocab: int, order: int) -> FloatArray:
    """π with π(x₂ … x_{k+1}) = Σ_{x₁} π(x₁ … x_k) P(x_{k+1}|x₁ … x_k), by iteration; shape (V^k,)."""
    blocks = P.reshape(vocab, vocab ** (order - 1), vocab)
    pi = np.full(len(P), 1 / len(P))
    while True:
        step: FloatArray = np.einsum("ab,abx->bx", pi.reshape(vocab, -1), blocks).ravel()
        step /= step.sum()
        if np.abs(step - pi).sum() < 1e-13:
            return step
        pi = step


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChainTokens:
    """An endless stream: each window is a stretch of the chain of its own, drawn from `key` and its number alone."""

    chain: Chain
    key: int

    @property
    def total(self) -> None:
        return None

    def sequences(self, context: int) -> None:  # noqa: ARG002 - of the protocol
        return None

    def windows(self, numbers: IntArray, context: int) -> IntArray:
        order, V = self.chain.order, self.chain.states
        length = context + 1
        draws = np.arange(length + 1, dtype=np.uint64)[:, None] * GOLDEN_GAMMA
        rows = mixed(numbers.astype(np.uint64) * GOLDEN_GAMMA + np.uint64(self.key))
        uniform = (mixed(rows + draws) >> np.uint64(11)) * 2.0**-53
        tokens = np.empty((length, len(numbers)), dtype=np.int64)
        now = np.searchsorted(self.chain.start, uniform[0], side="right")
        for t in range(min(order, length)):
            tokens[t] = now // V ** (order - 1 - t) % V
        for t in range(order, length):
            # The transition found is numbered c · V + x: x is its last digit, the next context its last k digits.
            found = np.searchsorted(self.chain.steps, uniform[t] + now, side="right")
            found = np.minimum(found, now * V + (V - 1))  # rounding may lift a draw into the next row
            tokens[t] = found % V
            now = found % V**order
        return np.ascontiguousarray(tokens.T)
