"""Numbers from a seed and a counter, and an order from a key: the same on every machine and in any order of asking."""

import hashlib

import numpy as np
import numpy.typing as npt

from model.corpus.streams import IntArray

UintArray = npt.NDArray[np.uint64]


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
