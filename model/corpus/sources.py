"""A corpus is two disjoint streams, `train` and `validation`: read from any source, and checked against a model."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from model.config import DataConfig, check
from model.corpus.chain import ChainTokens, draw_chain, stretch
from model.corpus.encoding import read_encoder, read_tokens
from model.corpus.files import place
from model.corpus.fingerprints import fingerprint
from model.corpus.hf import index_folder, read_stream
from model.corpus.order import key_of
from model.corpus.places import Index
from model.corpus.shards import read_shards
from model.corpus.streamed import HeldOutTokens, Source, StreamedTokens
from model.corpus.streams import Side, TokenArray, Tokens, in_memory


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


def read_corpus(config: DataConfig, vocab: int, seed: int | None = None) -> Corpus:
    """The streams of a source: text in memory, shards mapped, `synthetic` and `hf` made and read as they are asked for.

    Args:
        config: The source.
        vocab: Tokens that the model knows; the states of `synthetic`.
        seed: Of the order of a training stream that never ends; the others have none of their own.

    Raises:
        ValueError: A file that is missing, unreadable or malformed, or a source without data.
    """
    if config.source == "synthetic":
        chain = draw_chain(config.entropy_order, config.concentration, config.source_seed, vocab)
        return Corpus(
            source=config.source,
            train=ChainTokens(chain=chain, key=key_of("train", config.source_seed), first=stretch(seed)),
            validation=ChainTokens(chain=chain, key=key_of("validation", config.source_seed)),
            vocab=vocab,
        )
    if config.source == "hf":
        encoder = read_encoder(config)
        source = Source(
            name=place(config),
            read=partial(read_stream, config),
            encoder=encoder,
            validation=config.validation,
            shuffle_buffer=config.shuffle_buffer,
        )
        index = Index(folder=index_folder(config, config.fingerprint or fingerprint(config, vocab)))
        return Corpus(
            source=config.source,
            train=StreamedTokens(source=source, index=index, seed=seed),
            validation=HeldOutTokens(source=source),
            vocab=encoder.vocab,
        )
    if config.source == "shards":
        train, validation, bound = read_shards(config)
        return Corpus(source=config.source, train=train, validation=validation, vocab=bound)
    sides: dict[Side, list[TokenArray]] = {"train": [], "validation": []}
    encoder = read_encoder(config)
    for side, tokens in read_tokens(config, encoder):
        sides[side].append(tokens)
    check(any(sides.values()), f"{place(config)} holds no text; name files with content in data.path")
    return Corpus(
        source=config.source,
        train=in_memory(sides["train"]),
        validation=in_memory(sides["validation"]),
        vocab=encoder.vocab,
    )


def check_corpus(corpus: Corpus, *, vocab: int, context: int, evaluation_sequences: int = 0) -> None:
    """Refuse a corpus that a model cannot be trained or validated on.

    Of `hf` the start is read, as far as the validation sequences reach.

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
    if there is None and evaluation_sequences:
        corpus.validation.windows(np.array([evaluation_sequences - 1]), context)  # raises where there are fewer
