"""How documents become tokens: as bytes or by a tokenizer; the only module that knows the package tokenizers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.config import DataConfig, check
from model.corpus.files import absolute
from model.corpus.hf import read_stream
from model.corpus.streams import Side, TokenArray, TokenType
from model.corpus.text import Document, read_documents, side_of

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""Tokens that end a document, the first that a tokenizer knows; with bytes, NUL does."""
ENCODED_AT_ONCE = 1 << 22
"""Bytes of text that are turned into tokens together: bounds memory, and keeps a tokenizer's threads busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """How text becomes tokens."""

    vocab: int
    """Token ids lie below this."""
    encode: Callable[[list[Document]], list[TokenArray]]


def read_encoder(config: DataConfig) -> Encoder:
    """The encoder that a source names: UTF-8 bytes, or a tokenizer's file."""
    if config.source == "python_source" or config.tokenizer == "bytes":
        return Encoder(vocab=256, encode=_as_bytes)
    return _tokenizer(config.tokenizer)


def _as_bytes(documents: list[Document]) -> list[TokenArray]:
    return [np.frombuffer(document.content + b"\0" * document.ends, dtype=np.uint8) for document in documents]


def _tokenizer(name: str) -> Encoder:
    path = Path(absolute(name))
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
    dtype = dtype_for(vocab)

    def encode(documents: list[Document]) -> list[TokenArray]:
        texts = [document.content.decode(errors="replace") for document in documents]
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
        return [
            np.array(each + end if document.ends else each, dtype=dtype)
            for each, document in zip(ids, documents, strict=True)
        ]

    return Encoder(vocab=vocab, encode=encode)


def dtype_for(vocab: int) -> TokenType:
    """The smaller of the two types of llm.c's files that holds token ids below `vocab`."""
    return np.dtype("<u2") if vocab <= 1 << 16 else np.dtype("<u4")


def read_tokens(config: DataConfig, encoder: Encoder) -> Iterator[tuple[Side, TokenArray]]:
    """The tokens of each document with its side, in order."""
    waiting: list[Document] = []
    size = 0
    streamed = config.source == "hf"
    documents = (document for document, _ in read_stream(config)) if streamed else read_documents(config)
    for document in documents:
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
