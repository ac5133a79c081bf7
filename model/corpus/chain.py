"""A Markov chain whose entropy rate is known, and the endless streams that are drawn from it."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from model.config import DataConfig, check
from model.corpus.order import GOLDEN_GAMMA, key_of, mixed
from model.corpus.streams import IntArray

FloatArray = npt.NDArray[np.float64]

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
    return draw_chain(config.entropy_order, config.concentration, config.source_seed, vocab).entropy_rate


@lru_cache(maxsize=2)
def draw_chain(order: int, concentration: float, seed: int, vocab: int) -> Chain:
    """The chain of these parameters; the last two are kept, as every reader of a run asks for the same one."""
    P = draw_transitions(order, concentration, seed, vocab)
    contexts = vocab**order
    pi = _stationary(P, vocab, order)
    steps = np.cumsum(P, axis=1)
    steps[:, -1] = 1.0
    steps += np.arange(contexts)[:, None]
    start = np.cumsum(pi)
    start[-1] = 1.0
    rate = -float(pi @ np.einsum("cx,cx->c", P, np.log(P)))
    return Chain(order=order, states=vocab, steps=steps.ravel(), start=start, entropy_rate=rate)


def draw_transitions(order: int, concentration: float, seed: int, vocab: int, rows: int | None = None) -> FloatArray:
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


def stretch(seed: int | None) -> int:
    """Where the windows of a seed start in an endless stream, so that seeds read different ones; 0 without a seed."""
    return 0 if seed is None else key_of("stretch", seed) >> 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChainTokens:
    """An endless stream: each window is a stretch of the chain of its own, drawn from `key` and its number alone."""

    chain: Chain
    key: int
    first: int = 0
    """The window with number 0 of this stream, counted in that of the key."""

    @property
    def total(self) -> None:
        return None

    def sequences(self, context: int) -> None:  # noqa: ARG002 - of the protocol
        return None

    def windows(self, numbers: IntArray, context: int) -> IntArray:
        order, V = self.chain.order, self.chain.states
        length = context + 1
        draws = np.arange(length + 1, dtype=np.uint64)[:, None] * GOLDEN_GAMMA
        rows = mixed((numbers + self.first).astype(np.uint64) * GOLDEN_GAMMA + np.uint64(self.key))
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
