"""Text as documents, split by a hash of their content: of .txt, .jsonl and .parquet files and of Python source."""

import hashlib
import json
import mmap
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.config import DataConfig, check
from model.corpus.files import find_files, reading, walk
from model.corpus.streams import Side

TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet")
PIECES = 256
"""A file of plain text with more than two of this many parts of the whole text is cut at line ends into such parts."""
PIECE_BYTES = (1 << 10, 1 << 16)
"""Least and largest part: smaller ones break too many windows, larger ones make the held-out share uneven."""


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


def find_text_files(config: DataConfig) -> tuple[Path, ...]:
    """The files of `python_source` or `text`, in the order in which they are read: by relative path."""
    if config.source == "python_source":
        root = Path(sysconfig.get_path("stdlib"))
        found = walk(root, (".py",), leave_out=frozenset({"site-packages", "dist-packages", "__pycache__"}))
        return tuple(path for path in found if path.is_file())  # distributions link to files that may not be installed
    found = find_files(config, TEXT_SUFFIXES)
    for path in found:
        check(
            path.suffix in TEXT_SUFFIXES,
            f"{path} is none of {', '.join(TEXT_SUFFIXES)}; rename or convert it, or narrow data.path",
        )
    return found


def read_documents(config: DataConfig) -> Iterator[Document]:
    """The documents of `python_source` or `text`, in order: a file, a piece of one, or a row."""
    files = find_text_files(config)
    if config.source == "python_source":
        for path in files:
            with reading(path):
                yield Document(content=path.read_bytes())
        return
    with reading(Path(config.path)):
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
    with reading(path), path.open("rb") as file:
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
    with reading(path), path.open("rb") as file:
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
                column in record,
                f"{path}:{number} has no text in the field {column!r}, only {', '.join(record) or 'nothing'}; "
                "set data.column",
            )
            check(
                isinstance(record[column], str),
                f"{path}:{number} holds {record[column]!r} in the field {column!r}, not text; mend the line",
            )
            yield Document(content=record[column].encode(errors="replace"))


def _parquet_documents(path: Path, column: str) -> Iterator[Document]:
    import pyarrow
    from pyarrow import parquet

    try:
        with reading(path), parquet.ParquetFile(path) as file:
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
