"""Units that look wrong: what a column of a foreign table seems to hold instead, and what to type about it."""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from sweeper.errors import TableError
from sweeper.laws.arrays import FloatArray
from sweeper.table.cells import Table
from sweeper.table.columns import lr_column, numbers

HIGHEST_RATE = 10.0
"""Rates of normalised optimisers reach about 1 (MuonH sweeps up to 0.2, HyperP table 5); 10 is another unit."""
LOWEST_RATE = 1e-9
"""AdamW at the largest published scales stays above 1e-6."""
FEWEST_TOKENS = 1e4
"""Fewer than a few batches; billions of tokens are written as 0.1 to 10,000."""
HIGHEST_LOSS = 20.0
"""A uniform guess among a million tokens costs ln 1e6 = 13.8 nats."""
FEWEST_PARAMS = 1e3
"""No language model; millions and billions are written as 0.1 to 1,000."""
FLOPS_PER_PARAM_TOKEN = 6.0
"""Forward and backward (Kaplan et al. 2020, §2.1, arXiv:2001.08361)."""
FLOPS_RATIO = 30.0
"""Conventions differ by a few times (embeddings, attention, recomputation), units by 1,000."""

_COMPUTES = re.compile(r"[*+()]|[-/] *[0-9]")
"""What expressions hold and names of columns, such as val/loss, seldom do."""


def unit_doubts(
    table: Table, *, lr: str = "", loss: str = "loss", mapping: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """What looks like another unit than learning rates, nats per token, tokens, parameters and FLOPs, a sentence each.

    No number is changed: only its owner knows.

    Args:
        table: Rows with our column names.
        lr: Column of the learning rate; `lr_peak`, else `lr`, when empty.
        loss: Column of the loss.
        mapping: How the columns got their names, so that a doubt says what to type in its place.
    """
    return tuple(_doubts(table, lr or lr_column(table), loss, mapping or {}))


def _doubts(table: Table, lr: str, loss: str, mapping: Mapping[str, str]) -> Iterator[str]:
    def instead(name: str, form: str) -> str:
        return f"--map '{name}={form.format(_operand(mapping.get(name, name)))}'"

    rates = _known(table, lr)
    rates = rates[rates > 0]
    if rates.max(initial=0.0) > HIGHEST_RATE:
        rescaled = instead(lr, "{}*1e-3")
        yield f"the learning rates in {lr!r} reach {rates.max():g}: check the column (--lr), or rescale it: {rescaled}"
    if rates.min(initial=1.0) < LOWEST_RATE:
        yield (
            f"the learning rates in {lr!r} go down to {rates.min():g}: check the column (--lr), or leave "
            f"such rows out: --where '{_operand(lr)} > {LOWEST_RATE:g}'"
        )
    losses = _known(table, loss)
    middle = float(np.median(losses)) if losses.size else 0.0
    if losses.min(initial=0.0) < 0:
        lowest, negated = losses.min(), instead(loss, "-{}")
        yield f"{loss!r} goes down to {lowest:g}, but no loss is negative: if it is a log-likelihood, {negated}"
    elif middle > HIGHEST_LOSS:
        logarithm = instead(loss, "log({})")
        yield f"{loss!r} is {middle:.4g} in the middle, too high for nats: if it is a perplexity, {logarithm}"
    tokens, params, flops = (_known(table, name) for name in ("tokens", "params", "flops"))
    if tokens.size and 0 < tokens.max() < FEWEST_TOKENS:
        yield f"'tokens' reaches only {tokens.max():g}: if it counts billions, " + instead("tokens", "{}*1e9")
    if params.size and 0 < params.max() < FEWEST_PARAMS:
        yield f"'params' reaches only {params.max():g}: if it counts millions, " + instead("params", "{}*1e6")
    if flops.size and tokens.size and params.size:
        ratio = _ratio(table)
        if not 1 / FLOPS_RATIO <= ratio <= FLOPS_RATIO:
            product = f"6*{_operand(mapping.get('params', 'params'))}*{_operand(mapping.get('tokens', 'tokens'))}"
            yield (
                f"'flops' is {ratio:.2g} times 6·params·tokens in the middle: check the units of the three, or "
                f"compute it: --map 'flops={product}'"
            )


def _ratio(table: Table) -> float:
    """The FLOPs over 6·params·tokens, the median in the logarithm; 1 where no row has all three."""
    expected = FLOPS_PER_PARAM_TOKEN * numbers(table, "params") * numbers(table, "tokens")
    flops = numbers(table, "flops")
    both = np.isfinite(expected) & np.isfinite(flops) & (expected > 0) & (flops > 0)
    return float(np.exp(np.median(np.log(flops[both] / expected[both])))) if both.any() else 1.0


def _known(table: Table, name: str) -> FloatArray:
    """The finite numbers of a column; none where it is not there or holds none."""
    try:
        values = numbers(table, name)
    except TableError:
        return np.zeros(0)
    return values[np.isfinite(values)]


def _operand(theirs: str) -> str:
    """The right side of a mapping as part of an expression."""
    if theirs.replace(".", "_").isidentifier():
        return theirs
    return f"({theirs})" if _COMPUTES.search(theirs) else f"`{theirs}`"
