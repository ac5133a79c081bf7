from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import DataConfig, ModelConfig
from model.corpus import shards
from model.data import Batch, TokenData, open_data

CONTEXT = 16
MODEL = ModelConfig(width=64, depth=2, head_size=32, kv_heads=1, vocab=10_000, context=CONTEXT)
SEQUENCES = 94
"""In the training part (95 %) of 1600 tokens: ⌊1519 / 16⌋."""


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    """Shards in which a token is its own position."""
    np.arange(1600, dtype="<u2").tofile(tmp_path / "a.bin")
    return DataConfig(source="shards", path=str(tmp_path))


def rows(batches: Iterable[Batch]) -> list[int]:
    """The number of each sequence, read off its first token."""
    return [int(first) // CONTEXT for inputs_BT, _ in batches for first in inputs_BT[:, 0]]


def test_targets_are_the_inputs_one_token_later(config: DataConfig):
    inputs_BT, targets_BT = open_data(config, MODEL, seed=1).batch(step=3, sequences=8)
    assert inputs_BT.shape == targets_BT.shape == (8, CONTEXT)
    assert inputs_BT.dtype == targets_BT.dtype == torch.int64
    assert inputs_BT.is_contiguous()
    assert targets_BT.is_contiguous()
    assert torch.equal(targets_BT, inputs_BT + 1)


def test_an_epoch_brings_every_sequence_once_in_an_order_of_its_own(config: DataConfig):
    data = open_data(config, MODEL, seed=1)
    seen = rows(data.batch(step, sequences=47) for step in range(4))
    first, second = seen[:SEQUENCES], seen[SEQUENCES:]
    assert sorted(first) == sorted(second) == list(range(94))
    assert first != second
    assert first != sorted(first)


@pytest.mark.parametrize("source", ["shards", "synthetic"])
@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_the_order_does_not_depend_on_the_world_size(config: DataConfig, source: str, world_size: int):
    data = open_data(config if source == "shards" else DataConfig(source="synthetic"), SMALL, seed=1)
    whole = data.batch(step=7, sequences=24)
    share = 24 // world_size
    parts = [data.batch(7, 24, rank * share, (rank + 1) * share) for rank in range(world_size)]
    for tensor, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(tensor, torch.cat(pieces))


def test_a_batch_has_the_sequences_of_the_next_step_read_from_the_disk_ahead(config: DataConfig):
    data = open_data(config, MODEL, seed=1)
    expected: list[tuple[int, int, int]] = []
    train = replace(data.corpus.train, ahead=lambda *piece: expected.append(piece))
    watched = replace(data, corpus=replace(data.corpus, train=train))
    assert torch.equal(watched.batch(4, 8, 2, 5)[0], data.batch(4, 8, 2, 5)[0])
    firsts = data.batch(5, 8, 2, 5)[0][:, 0].tolist()
    assert expected == [(0, first, first + CONTEXT + 1) for first in firsts]


def test_a_validation_has_all_of_its_sequences_read_from_the_disk_ahead(config: DataConfig):
    data = open_data(config, MODEL, seed=1)
    expected: list[int] = []
    held_out = replace(data.corpus.validation, ahead=lambda _, first, __: expected.append(first))
    watched = replace(data, corpus=replace(data.corpus, validation=held_out))
    seen = [int(first) for inputs_BT, _ in watched.validation(4, per_batch=3) for first in inputs_BT[:, 0]]
    assert expected == seen


def test_a_system_that_reads_nothing_ahead_gives_the_same_batches(config: DataConfig, monkeypatch: pytest.MonkeyPatch):
    data = open_data(config, MODEL, seed=1)
    expected = data.batch(3, 8)[0]
    monkeypatch.setattr(shards.mmap, "MADV_WILLNEED", 9999)  # advice that no system knows
    assert torch.equal(data.batch(3, 8)[0], expected)


SMALL = ModelConfig(width=64, depth=2, head_size=32, kv_heads=1, vocab=1600, context=CONTEXT)


@pytest.mark.parametrize("source", ["shards", "synthetic"])
def test_a_resume_needs_the_step_alone(config: DataConfig, source: str):
    config = config if source == "shards" else DataConfig(source="synthetic")
    through = open_data(config, SMALL, seed=1)
    for step in range(5):
        before = through.batch(step, 24)
    after = open_data(config, SMALL, seed=1).batch(4, 24)
    assert torch.equal(before[0], after[0])


@pytest.mark.parametrize("source", ["shards", "synthetic"])
def test_a_seed_changes_the_training_order_and_not_the_validation_set(config: DataConfig, source: str):
    config = config if source == "shards" else DataConfig(source="synthetic")
    one, two = open_data(config, SMALL, seed=1), open_data(config, SMALL, seed=2)
    assert not torch.equal(one.batch(0, 24)[0], two.batch(0, 24)[0])
    for (inputs_BT, _), (same_BT, _) in zip(one.validation(4), two.validation(4), strict=True):
        assert torch.equal(inputs_BT, same_BT)


def test_validation_comes_in_batches_or_shares_of_one_fixed_set(config: DataConfig):
    data = open_data(config, MODEL, seed=1)
    whole = rows(data.validation(4))
    assert rows(data.validation(4, per_batch=3)) == whole
    assert rows(data.validation(4, 16, 0, 2)) + rows(data.validation(4, 16, 2, 4)) == whole
    assert rows(data.validation(2)) == whole[:2]


def test_no_token_is_both_trained_on_and_validated_on(config: DataConfig):
    data = open_data(config, MODEL, seed=1)
    trained = {int(token) for step in range(2) for tokens in data.batch(step, 47) for token in tokens.flatten()}
    held_out = {int(token) for batch in data.validation(4) for tokens in batch for token in tokens.flatten()}
    assert not trained & held_out


def test_too_few_validation_sequences_are_counted(config: DataConfig):
    data = open_data(config, MODEL, seed=1)
    with pytest.raises(ValueError, match=r"holds out 4 validation sequences of 16 tokens, but .* is 200; set .*=4 or"):
        next(data.validation(200))


def test_rows_outside_the_batch_are_refused(config: DataConfig):
    with pytest.raises(ValueError, match="rows 8 to 9 do not lie in a batch of 8 sequences"):
        open_data(config, MODEL, seed=1).batch(0, 8, 8, 9)


def test_a_vocabulary_below_the_bytes_is_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_text("a text")
    model = ModelConfig(width=64, depth=2, head_size=32, kv_heads=1, vocab=128, context=CONTEXT)
    with pytest.raises(ValueError, match=r"ids up to 255, but model.vocab is 128; set model.vocab=256"):
        open_data(DataConfig(source="text", path=str(tmp_path)), model, seed=1)


def test_a_token_beyond_the_vocabulary_that_sampling_missed_is_found_in_its_batch(tmp_path: Path):
    tokens = np.zeros(2_000_000, dtype="<u2")
    tokens[50_000] = 20_000
    tokens.tofile(tmp_path / "a.bin")
    data = open_data(DataConfig(source="shards", path=str(tmp_path)), MODEL, seed=1)
    with pytest.raises(
        ValueError, match=r"has the token id 20000, but model.vocab is 10000; set model.vocab to at least"
    ):
        sweep(data)


def sweep(data: TokenData) -> None:
    for step in range(12):
        data.batch(step, 10_000)
