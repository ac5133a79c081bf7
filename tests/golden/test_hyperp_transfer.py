"""HyperP's transfer rules against the paper (arXiv 2603.28743)."""

import pytest

from sweeper.laws.transfer import Transfer, rates

BATCH = 2_097_152

LADDER_50_TPP = [  # depth, tokens at 50 per parameter (§4), multiplier of η₀ by §2 and eq. 8
    (8, 10_400_000_000, 1.0),
    (12, 28_488_664_987, 0.59144),
    (16, 61_876_070_528, 0.39962),
    (20, 115_591_939_546, 0.29265),
    (24, 194_665_994_962, 0.22611),
]


@pytest.mark.parametrize(("depth", "tokens", "multiplier"), LADDER_50_TPP)
def test_the_ladder_at_50_tokens_per_parameter(depth, tokens, multiplier):
    found = rates(Transfer(), lr=0.02, depth=depth, tokens=tokens, batch_tokens=BATCH)
    assert found.hidden / 0.02 == pytest.approx(multiplier, abs=6e-6)
    assert found.residual_multiplier == pytest.approx((2 * depth) ** -0.5)
    assert found.logit_multiplier == 1
    assert found.weight_decay == 0


TABLE_4 = [  # tokens, fitted optimum at d = 8
    (10.4e9, 0.01515),
    (20.8e9, 0.01208),
    (41.6e9, 0.00958),
    (83.2e9, 0.00772),
    (166.4e9, 0.00635),
]


@pytest.mark.parametrize(("tokens", "optimum"), TABLE_4)
def test_one_base_rate_carries_over_the_token_budgets_of_table_4(tokens, optimum):
    found = rates(Transfer(), lr=0.01515, depth=8, tokens=tokens, batch_tokens=BATCH)
    assert found.hidden == pytest.approx(optimum, rel=0.02)  # the paper's own noise floor


@pytest.mark.parametrize("depth", [8, 12, 16, 20, 24])
def test_muon_with_mup_scales_depth_but_not_tokens(depth):
    transfer = Transfer(rule="muon_mupp")
    found = rates(transfer, lr=0.02, depth=depth, tokens=1e12, batch_tokens=BATCH, weight_decay=1e-3)
    assert found.hidden == pytest.approx(0.02 * (8 / depth) ** 0.5)
    assert found.logit_multiplier == pytest.approx(8 / depth)  # table 1: head logits × d₀/d
    assert found.weight_decay == pytest.approx(1e-3 * 8 / depth)  # §4.5: independent decay λ·d₀/d
    assert found.residual_multiplier == pytest.approx((2 * depth) ** -0.5)


def test_muon_without_its_depth_rule_scales_nothing_with_depth():
    transfer = Transfer(rule="muon_mupp", depth=False, residual=False)
    found = rates(transfer, lr=0.02, depth=16, tokens=1e12, batch_tokens=BATCH, weight_decay=1e-3)
    assert (found.hidden, found.logit_multiplier, found.weight_decay, found.residual_multiplier) == (0.02, 1, 1e-3, 1)
