from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.laws.transfer import Transfer, predicted_lr, rates

HERE = {"depth": 32, "tokens": 41.6e9, "batch_tokens": 8_388_608}
TOKENS, DEPTH, BATCH = 4**-0.32, 0.5, 2.0
"""The factors at `HERE`: four times the tokens, depth and batch of the reference."""


@pytest.mark.parametrize(
    ("switched_off", "left"),
    [
        ({}, TOKENS * DEPTH * BATCH),
        ({"tokens": False}, DEPTH * BATCH),
        ({"depth": False}, TOKENS * BATCH),
        ({"batch": False}, TOKENS * DEPTH),
        ({"tokens": False, "depth": False, "batch": False}, 1.0),
    ],
)
def test_every_factor_has_its_switch(switched_off, left):
    assert rates(Transfer(**switched_off), lr=1.0, **HERE).hidden == pytest.approx(left)


def test_the_residual_multiplier_has_its_switch():
    assert rates(Transfer(residual=False), lr=1.0, **HERE).residual_multiplier == 1


def test_the_token_factor_reaches_all_rates_or_the_hidden_ones():
    everywhere = rates(Transfer(), lr=1.0, **HERE)
    assert everywhere.hidden == everywhere.head == everywhere.embedding == everywhere.vector
    hidden = rates(Transfer(token_scope="hidden"), lr=1.0, **HERE)
    assert hidden.hidden == everywhere.hidden
    assert hidden.head == hidden.embedding == hidden.vector == pytest.approx(everywhere.head / TOKENS)


def test_vectors_may_have_a_rate_of_their_own():
    found = rates(Transfer(vector_ratio=0.3), lr=1.0, **HERE)
    assert found.vector == pytest.approx(0.3 * found.embedding)


def test_no_rule_leaves_the_rate_alone_and_passes_decay_on():
    found = rates(Transfer(rule="none"), lr=0.01, **HERE, weight_decay=0.1)
    assert (found.hidden, found.residual_multiplier, found.weight_decay) == (0.01, 1, 0.1)


def test_a_rate_must_be_positive():
    with pytest.raises(ValueError, match="lr must be positive, got -1"):
        rates(Transfer(), lr=-1.0, **HERE)


@given(
    lr=st.floats(1e-4, 1),
    depth=st.integers(1, 64),
    tokens=st.floats(1e6, 1e13),
    batch_tokens=st.floats(1e3, 1e8),
    off=st.sets(st.sampled_from(["tokens", "depth", "batch"])),
    rule=st.sampled_from(["hyperp", "muon_mupp", "none"]),
)
def test_the_predicted_base_rate_peaks_where_hyperp_does(lr, depth, tokens, batch_tokens, off, rule):
    transfer = Transfer(rule=rule, **dict.fromkeys(off, False))
    cell = {"depth": depth, "tokens": tokens, "batch_tokens": batch_tokens}
    base = predicted_lr(transfer, lr=lr, **cell)
    hyperp = rates(replace(Transfer(), rule="hyperp"), lr=lr, **cell)
    assert rates(transfer, lr=base, **cell).hidden == pytest.approx(hyperp.hidden)


@pytest.mark.parametrize("rule", ["hyperp", "muon_mupp"])
@pytest.mark.parametrize("depth", [0, -2])
def test_a_depth_that_is_not_positive_is_named(rule, depth):
    with pytest.raises(ValueError, match=f"depth must be positive, got {depth}"):
        rates(Transfer(rule=rule), lr=1.0, **{**HERE, "depth": depth})


@pytest.mark.parametrize("name", ["tokens", "batch_tokens"])
@pytest.mark.parametrize("value", [0, -5])
def test_a_count_that_is_not_positive_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must be positive, got {value}"):
        rates(Transfer(), lr=1.0, **{**HERE, name: value})


def test_a_factor_beyond_the_floats_is_one_sentence():
    with pytest.raises(ValueError, match=r"the transfer factor \(tokens 4.16e\+10 / 1\)\^1000 is beyond 1e308"):
        rates(Transfer(token_exponent=1000, tokens_reference=1), lr=1.0, **HERE)
