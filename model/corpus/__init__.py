"""Where tokens come from, how they are split and how their content is named; numpy only, so that a login node can plan.

What the rest of the code uses; the modules of this package import one another.
"""

from model.corpus.chain import entropy_rate
from model.corpus.fingerprints import check_fingerprint, fingerprint, with_fingerprint
from model.corpus.hf import is_on_hub
from model.corpus.order import key_of, shuffled
from model.corpus.prepare import prepare_shards
from model.corpus.sources import Corpus, check_corpus, read_corpus
from model.corpus.streams import IntArray, StoredTokens, Tokens
from model.corpus.text import side_of

__all__ = [
    "Corpus",
    "IntArray",
    "StoredTokens",
    "Tokens",
    "check_corpus",
    "check_fingerprint",
    "entropy_rate",
    "fingerprint",
    "is_on_hub",
    "key_of",
    "prepare_shards",
    "read_corpus",
    "shuffled",
    "side_of",
    "with_fingerprint",
]
