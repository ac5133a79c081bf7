import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import DataConfig
from model.corpus import StoredTokens, fingerprint, prepare_shards, read_corpus, shuffled, side_of

documents = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), min_size=1)


def split(texts: list[str], folder: str, share: float) -> tuple[list[bytes], list[bytes]]:
    """The documents of the two sides of a jsonl file, in order."""
    path = Path(folder) / "a.jsonl"
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    source = read_corpus(DataConfig(source="text", path=str(path), validation=share), 256)
    return contents(source.train), contents(source.validation)


def contents(stream: object) -> list[bytes]:
    assert isinstance(stream, StoredTokens)
    out = np.empty(stream.total, dtype=np.int64)
    stream.read_into(out, 0)
    return bytes(out.tolist()).split(b"\0")[:-1]


@settings(deadline=None, max_examples=50)
@given(texts=documents, share=st.floats(0.05, 0.95))
def test_the_sides_never_overlap_and_together_hold_every_document(texts: list[str], share: float):
    with TemporaryDirectory() as folder:
        train, held_out = split(texts, folder, share)
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(each.encode() for each in texts)


@settings(deadline=None)
@given(content=st.binary(), low=st.floats(0.01, 0.5), more=st.floats(0, 0.49))
def test_a_larger_share_keeps_what_was_held_out(content: bytes, low: float, more: float):
    if side_of(content, low) == "validation":
        assert side_of(content, low + more) == "validation"


@settings(deadline=None, max_examples=50)
@given(length=st.integers(1, 3000), key=st.integers(0, 2**62 - 1))
def test_a_shuffle_is_a_permutation(length: int, key: int):
    assert sorted(shuffled(np.arange(length), length, key).tolist()) == list(range(length))


@settings(deadline=None, max_examples=50)
@given(length=st.integers(1, 2**60), key=st.integers(0, 2**62 - 1), data=st.data())
def test_a_shuffle_of_any_length_answers_for_single_positions(length: int, key: int, data: st.DataObject):
    positions = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=20, unique=True))
    together = shuffled(np.array(positions), length, key).tolist()
    assert together == [int(shuffled(np.array([position]), length, key)[0]) for position in positions]
    assert len(set(together)) == len(positions)
    assert all(0 <= place < length for place in together)


@settings(deadline=None, max_examples=50)
@given(
    tokens=st.lists(st.integers(0, 65_535), min_size=2, max_size=200),
    cuts=st.lists(st.integers(0, 200), max_size=4),
    context=st.integers(1, 20),
)
def test_windows_do_not_depend_on_how_tokens_are_stored(tokens: list[int], cuts: list[int], context: int):
    whole = np.array(tokens, dtype=np.uint16)
    parts = [part for part in np.split(whole, sorted(min(cut, len(whole)) for cut in cuts)) if len(part)]
    ends = tuple(np.cumsum([len(part) for part in parts]).tolist())
    stream = StoredTokens(ends=ends, segment=parts.__getitem__, start=0, stop=len(whole))
    windows = stream.windows(np.arange(stream.sequences(context)), context)
    for number, window in enumerate(windows.tolist()):
        assert window == tokens[number * context : (number + 1) * context + 1]
        expected: list[int] = []
        watched = replace(stream, ahead=lambda i, a, b, expected=expected: expected.extend(parts[i][a:b].tolist()))
        watched.expect(np.array([number]), context)
        assert expected == window


@settings(deadline=None, max_examples=20)
@given(texts=documents, shard_tokens=st.integers(1, 500))
def test_shards_of_any_size_give_back_the_same_documents(texts: list[str], shard_tokens: int):
    with TemporaryDirectory() as folder:
        train, held_out = split(texts, folder, 0.5)
        if not train or not held_out:
            return
        config = DataConfig(source="text", path=folder, validation=0.5)
        prepare_shards(config, Path(folder) / "out", shard_tokens=max(shard_tokens, sum(map(len, texts)) // 50))
        again = read_corpus(DataConfig(source="shards", path=f"{folder}/out"), 256)
        assert (contents(again.train), contents(again.validation)) == (train, held_out)


@settings(deadline=None, max_examples=50)
@given(content=st.binary(min_size=1, max_size=100), position=st.integers(0, 99), flip=st.integers(1, 255))
def test_any_changed_byte_changes_the_fingerprint(content: bytes, position: int, flip: int):
    changed = bytearray(content)
    changed[position % len(content)] ^= flip
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        config = DataConfig(source="text", path=str(path))
        path.write_bytes(content)
        before = fingerprint(config, 256)
        path.write_bytes(bytes(changed))
        assert fingerprint(config, 256) != before
