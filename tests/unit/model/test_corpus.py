import hashlib
import json
import math
import resource
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.config import DataConfig
from model.corpus import (
    StoredTokens,
    check_corpus,
    check_fingerprint,
    entropy_rate,
    fingerprint,
    prepare_shards,
    read_corpus,
    shuffled,
    side_of,
    with_fingerprint,
)
from model.corpus.chain import draw_transitions
from model.corpus.text import find_text_files, read_documents

LINES = [f"line {i}: {hashlib.sha256(str(i).encode()).hexdigest()}\n" for i in range(3000)]


def all_tokens(stream: object) -> np.ndarray:
    assert isinstance(stream, StoredTokens)
    out = np.empty(stream.total, dtype=np.int64)
    stream.read_into(out, 0)
    return out


def text(path: Path, **settings: object) -> DataConfig:
    return DataConfig(source="text", path=str(path), **settings)


def shards(path: Path, **settings: object) -> DataConfig:
    return DataConfig(source="shards", path=str(path), **settings)


def write_jsonl(path: Path, texts: list[str], column: str = "text") -> Path:
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts))
    return path


def write_parquet(path: Path, texts: list[object], column: str = "text") -> Path:
    pq.write_table(pa.table({column: texts}), path, row_group_size=100)
    return path


def write_shard(path: Path, tokens: np.ndarray, magic: int = 20240520, version: int = 1) -> Path:
    header = np.zeros(256, dtype="<i4")
    header[:3] = magic, version, len(tokens)
    path.write_bytes(header.tobytes() + tokens.tobytes())
    return path


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(LINES[:300], trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


# python_source


def test_python_source_reads_the_standard_library_and_nothing_installed():
    files = find_text_files(DataConfig())
    assert Path(json.__file__) in files
    assert not any({"site-packages", "dist-packages", "__pycache__"} & set(path.parts) for path in files)
    assert list(files) == sorted(files, key=str)


def test_python_source_holds_out_about_its_share_and_loses_no_byte():
    source = read_corpus(DataConfig(), 256)
    files = find_text_files(DataConfig())
    ends = sum(path.stat().st_size > 0 for path in files)
    held_out = source.validation.total
    assert source.train.total + held_out == sum(path.stat().st_size for path in files) + ends
    assert 0.02 < held_out / source.train.total < 0.1


def test_the_fingerprint_of_python_source_is_fast():
    start = time.process_time()  # not the clock, which other programs slow down
    fingerprint(DataConfig(), 256)
    assert time.process_time() - start < 2  # 0.2 s on an idle machine


def test_a_login_node_needs_no_torch():
    code = "import sys, model.corpus; sys.exit(any(m in sys.modules for m in ('torch', 'pyarrow', 'tokenizers')))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


# Text


def test_documents_of_a_jsonl_file_become_bytes_that_end_in_nul(tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", LINES)
    source = read_corpus(text(path), 256)
    train = bytes(all_tokens(source.train).tolist()).split(b"\0")[:-1]
    held_out = bytes(all_tokens(source.validation).tolist()).split(b"\0")[:-1]
    assert [line.encode() for line in LINES if side_of(line.encode(), 0.05) == "train"] == train
    assert [line.encode() for line in LINES if side_of(line.encode(), 0.05) == "validation"] == held_out
    assert 100 < len(held_out) < 200  # 150 ± 12


def test_jsonl_and_parquet_of_the_same_documents_give_the_same_tokens(tmp_path: Path):
    jsonl = read_corpus(text(write_jsonl(tmp_path / "a.jsonl", LINES[:500], "body"), column="body"), 256)
    parquet = read_corpus(text(write_parquet(tmp_path / "a.parquet", LINES[:500], "body"), column="body"), 256)
    assert np.array_equal(all_tokens(jsonl.train), all_tokens(parquet.train))
    assert np.array_equal(all_tokens(jsonl.validation), all_tokens(parquet.validation))


@pytest.mark.parametrize("separator", ["\n", " ", ""])
def test_a_single_large_file_is_cut_and_keeps_every_byte(tmp_path: Path, separator: str):
    path = tmp_path / "a.txt"
    path.write_text(separator.join(line.strip() + "é€𝄞" for line in LINES))
    pieces = list(read_documents(text(path)))
    assert b"".join(piece.content for piece in pieces) == path.read_bytes()
    assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len(pieces) > 100
    assert max(len(piece.content) for piece in pieces) <= 4096
    assert read_corpus(text(path), 256).validation.total > 0


def test_a_cut_falls_on_a_line_end(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("".join(LINES))
    assert all(piece.content.endswith(b"\n") for piece in read_documents(text(path)))


def test_small_files_of_a_folder_stay_whole(tmp_path: Path):
    for i in range(300):
        (tmp_path / f"{i:03d}.txt").write_text(LINES[i])
    assert [piece.content for piece in read_documents(text(tmp_path))] == [line.encode() for line in LINES[:300]]


def test_a_glob_reads_what_it_matches_in_order(tmp_path: Path):
    for name in ("b1.txt", "a2.txt", "c.txt"):
        (tmp_path / name).write_text(name)
    found = find_text_files(text(tmp_path / "*[12].txt"))
    assert [path.name for path in found] == ["a2.txt", "b1.txt"]


def test_a_tokenizer_encodes_documents_and_ends_them_with_its_token(tmp_path: Path, tokenizer_file: Path):
    from tokenizers import Tokenizer

    config = text(write_jsonl(tmp_path / "a.jsonl", LINES[:500]), tokenizer=str(tokenizer_file))
    source = read_corpus(config, 300)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    kept = [line for line in LINES[:500] if side_of(line.encode(), 0.05) == "train"]
    expected = [token for line in kept for token in [*tokenizer.encode(line).ids, 0]]
    assert all_tokens(source.train).tolist() == expected
    assert source.vocab == tokenizer.get_vocab_size()


# Fingerprints


def test_a_fingerprint_follows_the_content_and_not_the_path(tmp_path: Path):
    (tmp_path / "x").mkdir()
    first, same, other = tmp_path / "a.txt", tmp_path / "x" / "b.txt", tmp_path / "c.txt"
    first.write_text("".join(LINES))
    same.write_text("".join(LINES))
    other.write_text("".join(LINES).replace("line 7:", "line 8:"))
    assert fingerprint(text(first), 256) == fingerprint(text(same), 256)
    assert fingerprint(text(first), 256) != fingerprint(text(other), 256)


def test_a_fingerprint_follows_the_tokenizer(tmp_path: Path, tokenizer_file: Path):
    path = write_jsonl(tmp_path / "a.jsonl", LINES)
    moved, changed = tmp_path / "moved.json", tmp_path / "changed.json"
    moved.write_text(tokenizer_file.read_text())
    changed.write_text(tokenizer_file.read_text() + " ")
    names = ["bytes", str(tokenizer_file), str(moved), str(changed)]
    bytes_, here, there, altered = (fingerprint(text(path, tokenizer=name), 300) for name in names)
    assert here == there
    assert len({bytes_, here, altered}) == 3


def test_a_fingerprint_of_shards_follows_tokens_type_and_side(tmp_path: Path):
    tokens = np.arange(5000, dtype="<u2")
    changed = tokens.copy()
    changed[4000] = 7
    folders = {}
    for name, file, content in [
        ("base", "a.bin", tokens),
        ("moved", "b.bin", tokens),
        ("changed", "a.bin", changed),
        ("longer", "a.bin", np.append(tokens, tokens[:1])),
        ("held out", "a_val.bin", tokens),
    ]:
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / file, content)
        folders[name] = fingerprint(shards(tmp_path / name), 5000)
    assert folders["base"] == folders.pop("moved")
    assert len(set(folders.values())) == len(folders)


def test_a_fingerprint_of_a_chain_follows_its_parameters():
    chains = [
        DataConfig(source="synthetic"),
        DataConfig(source="synthetic", source_seed=1),
        DataConfig(source="synthetic", concentration=0.2),
        DataConfig(source="synthetic", entropy_order=2),
    ]
    prints = [fingerprint(chain, 64) for chain in chains] + [fingerprint(chains[0], 65)]
    assert len(set(prints)) == len(prints)


def test_the_fingerprint_of_the_default_chain_never_changes():
    # Golden: a new value means that other sequences are drawn under the same name; raise LAYOUT with it.
    assert fingerprint(DataConfig(source="synthetic"), 256) == "319845f958d24b12"
    window = read_corpus(DataConfig(source="synthetic"), 256).train.windows(np.array([0, 7]), 7)
    assert window.tolist() == [[127, 68, 108, 166, 183, 34, 82, 49], [245, 9, 126, 81, 238, 219, 204, 106]]


def test_a_planned_config_holds_absolute_paths_and_notices_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.txt").write_text("".join(LINES))
    monkeypatch.chdir(tmp_path)
    planned = with_fingerprint(DataConfig(source="text", path="a.txt"), 256)
    monkeypatch.chdir("/")
    check_fingerprint(planned, 256)
    with (tmp_path / "a.txt").open("a") as file:
        file.write("!")
    with pytest.raises(ValueError, match=r"a.txt has the fingerprint \w{16}, but the run was planned with \w{16}; "):
        check_fingerprint(planned, 256)


# Shards


@pytest.mark.parametrize(("magic", "version", "dtype"), [(20240520, 1, "<u2"), (20240801, 7, "<u4")])
def test_shards_with_a_header_know_their_type(tmp_path: Path, magic: int, version: int, dtype: str):
    tokens = np.arange(1000, dtype=dtype)
    write_shard(tmp_path / "a.bin", tokens, magic, version)
    write_shard(tmp_path / "a_val.bin", tokens[::-1], magic, version)
    source = read_corpus(shards(tmp_path), 1000)
    assert np.array_equal(all_tokens(source.train), tokens)
    assert np.array_equal(all_tokens(source.validation), tokens[::-1])
    assert source.vocab == 1000


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_shards_without_a_header_have_the_configured_type_and_hold_out_their_tail(tmp_path: Path, dtype: str):
    tokens = np.arange(1000, dtype=dtype)
    tokens[:600].tofile(tmp_path / "a.bin")
    tokens[600:].tofile(tmp_path / "b.bin")
    source = read_corpus(shards(tmp_path, token_dtype=dtype, validation=0.1), 1000)
    assert np.array_equal(all_tokens(source.train), tokens[:900])
    assert np.array_equal(all_tokens(source.validation), tokens[900:])


def test_windows_cross_shards_and_overlap_by_their_target(tmp_path: Path):
    tokens = np.arange(1000, dtype="<u2")
    for i, part in enumerate(np.split(tokens, [3, 4, 500])):
        write_shard(tmp_path / f"{i}.bin", part)
    stream = read_corpus(shards(tmp_path), 1000).train
    assert stream.sequences(10) == (950 - 1) // 10
    windows = stream.windows(np.array([0, 49, 94 - 1]), 10)
    assert windows.tolist() == [list(range(start, start + 11)) for start in (0, 490, 930)]


def test_a_shard_is_never_read_whole(tmp_path: Path):
    size = 8 << 30
    with (tmp_path / "a.bin").open("wb") as file:
        file.truncate(size)  # sparse: takes no space
    tracemalloc.start()
    source = read_corpus(shards(tmp_path), 256)
    last = source.train.sequences(1024)
    assert last is not None
    source.train.windows(np.array([0, last - 1]), 1024)
    fingerprint(shards(tmp_path), 256)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert source.train.total == round(0.95 * size / 2)
    assert peak < 10 << 20


@pytest.mark.parametrize("kind", ["bytes", "tokenizer", "shards"])
def test_prepared_shards_give_back_the_same_tokens(tmp_path: Path, tokenizer_file: Path, kind: str):
    if kind == "shards":
        (tmp_path / "from").mkdir()
        write_shard(tmp_path / "from" / "a.bin", np.arange(70_000, dtype="<u4"), 20240801, 7)
        config = shards(tmp_path / "from")
    else:
        path = write_jsonl(tmp_path / "a.jsonl", LINES[:700])
        config = text(path, tokenizer=str(tokenizer_file) if kind == "tokenizer" else "bytes")
    paths = prepare_shards(config, tmp_path / "out", shard_tokens=20_000)
    before, after = read_corpus(config, 70_000), read_corpus(shards(tmp_path / "out"), 70_000)
    assert np.array_equal(all_tokens(before.train), all_tokens(after.train))
    assert np.array_equal(all_tokens(before.validation), all_tokens(after.validation))
    assert paths == tuple(sorted((tmp_path / "out").iterdir()))
    assert [paths[0].name, paths[1].name, paths[-1].name] == ["train_000000.bin", "train_000001.bin", "val_000000.bin"]
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_prepare_refuses_a_folder_in_use_and_leaves_it_alone(tmp_path: Path):
    (tmp_path / "mine").write_text("x")
    config = text(write_jsonl(tmp_path / "a.jsonl", LINES))
    with pytest.raises(ValueError, match=r"already exists and is not empty; choose a new folder"):
        prepare_shards(config, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "a.jsonl"}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk on which no file grows beyond `size` bytes; Python ignores the signal and gets an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path):
    config = text(write_jsonl(tmp_path / "a.jsonl", LINES))
    with largest_file(50_000), pytest.raises(ValueError, match=r"cannot write .*out: file too large; nothing was kept"):
        prepare_shards(config, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_prepare_refuses_what_has_no_end():
    with pytest.raises(ValueError, match="data=synthetic never ends"):
        prepare_shards(DataConfig(source="synthetic"), Path("nowhere"))


def test_prepare_refuses_a_source_that_holds_nothing_out(tmp_path: Path):
    config = text(write_jsonl(tmp_path / "a.jsonl", LINES[:3]), validation=0.001)
    with pytest.raises(ValueError, match=r"leaves no val tokens at data.validation=0.001; add text, or give"):
        prepare_shards(config, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_prepare_refuses_a_vocabulary_that_is_too_small(tmp_path: Path):
    config = text(write_jsonl(tmp_path / "a.jsonl", LINES))
    with pytest.raises(ValueError, match="token ids up to 255, but the vocabulary is 100; raise it to 256"):
        prepare_shards(config, tmp_path / "out", vocab=100)


# The chain


def test_the_entropy_rate_of_two_states_is_the_closed_form():
    # Cover and Thomas, example 4.3.1: H = (β H(α) + α H(β)) / (α + β) with α = P(1|0), β = P(0|1).
    config = DataConfig(source="synthetic", concentration=1.0, source_seed=3)
    (_, alpha), (beta, _) = draw_transitions(1, 1.0, 3, 2)

    def H(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    assert entropy_rate(config, 2) == pytest.approx((beta * H(alpha) + alpha * H(beta)) / (alpha + beta), rel=1e-12)


def test_the_entropy_rate_lies_near_its_expectation_over_chains():
    # A Dirichlet(c, …, c) row over V outcomes has the mean entropy ψ(Vc + 1) − ψ(c + 1); the uniform share adds to it.
    from scipy.special import digamma

    expected = digamma(256 * 0.1 + 1) - digamma(1.1)
    assert entropy_rate(DataConfig(source="synthetic"), 256) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("order", "states"), [(1, 16), (2, 6), (3, 4)])
def test_the_entropy_rate_is_the_conditional_entropy_of_a_long_sample(order: int, states: int):
    config = DataConfig(source="synthetic", entropy_order=order, concentration=0.3)
    windows = read_corpus(config, states).train.windows(np.arange(4000), 256)
    spans = np.lib.stride_tricks.sliding_window_view(windows, order + 1, axis=1).reshape(-1, order + 1)
    codes = spans @ states ** np.arange(order, -1, -1)
    counts = np.bincount(codes, minlength=states ** (order + 1)).reshape(-1, states)
    share = counts / counts.sum()
    P = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    estimate = -np.sum(share * np.log(np.where(P > 0, P, 1)))
    assert estimate == pytest.approx(entropy_rate(config, states), abs=0.005)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_first_tokens_of_a_window_are_distributed_like_the_last(order: int):
    windows = read_corpus(DataConfig(source="synthetic", entropy_order=order), 8).train.windows(np.arange(20_000), 31)
    first, last = (np.bincount(windows[:, t], minlength=8) / len(windows) for t in (0, -1))
    assert np.abs(first - last).max() < 0.02


def test_a_window_of_the_chain_depends_on_its_number_alone():
    stream = read_corpus(DataConfig(source="synthetic"), 256).train
    together = stream.windows(np.arange(20), 16)
    alone = np.concatenate([stream.windows(np.array([number]), 16) for number in range(20)])
    assert np.array_equal(together, alone)
    assert len({tuple(row) for row in together.tolist()}) == 20


def test_train_and_validation_of_the_chain_are_different_streams():
    source = read_corpus(DataConfig(source="synthetic"), 256)
    train, held_out = (stream.windows(np.arange(500), 16).tolist() for stream in (source.train, source.validation))
    assert not {tuple(row) for row in train} & {tuple(row) for row in held_out}


def test_a_chain_that_is_too_large_names_a_size_that_is_not():
    with pytest.raises(ValueError, match=r"more than 16777216; set model.vocab to at most 256 or lower") as error:
        entropy_rate(DataConfig(source="synthetic", entropy_order=2), 257)
    assert "\n" not in str(error.value)


# Order


def test_a_shuffle_scatters_neighbours():
    order = shuffled(np.arange(10_000), 10_000, key=1)
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.05
    assert sum(abs(a - b) == 1 for a, b in pairwise(order.tolist())) < 20


# Bad input


def bad_jsonl(content: str) -> Callable[[Path], DataConfig]:
    def make(folder: Path) -> DataConfig:
        (folder / "a.jsonl").write_text(content)
        return text(folder / "a.jsonl")

    return make


def bad_file(name: str, content: bytes) -> Callable[[Path], DataConfig]:
    def make(folder: Path) -> DataConfig:
        (folder / name).write_bytes(content)
        return shards(folder / name) if name.endswith(".bin") else text(folder / name)

    return make


def header(magic: int, version: int, count: int, tokens: int) -> bytes:
    words = np.zeros(256, dtype="<i4")
    words[:3] = magic, version, count
    return words.tobytes() + bytes(2 * tokens)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: text(folder / "none.txt"), r"none.txt does not exist; check the path"),
        (lambda folder: text(folder / "*.txt"), r"\*.txt matches no file; check the pattern"),
        (lambda folder: text(folder), r"holds no .txt or .jsonl or .parquet file; name a folder that does"),
        (lambda folder: shards(folder), r"holds no .bin file; name a folder that does"),
        (bad_file("a.gz", b"x"), r"a.gz is none of .txt, .jsonl, .parquet; rename or convert it"),
        (bad_file("a.txt", b""), r"a.txt holds no text; name files with content"),
        (bad_file("a.txt", b"good \xff bad"), r"a.txt is not UTF-8 \(byte 0xff at offset 5\); convert it"),
        (bad_file("a.parquet", b"PAR1 no"), r"a.parquet is no readable parquet file \(.*\); write it again"),
        (bad_jsonl('{"text": "a"}\n{"text": \n'), r"a.jsonl:2 is not JSON \(.*\); mend the line"),
        (bad_jsonl('{"text": "a"}\n[1]\n'), r"a.jsonl:2 is no JSON object; write one object a line"),
        (bad_jsonl('{"text": 3}\n'), r"a.jsonl:1 holds 3 in the field 'text', not text; mend the line"),
        (bad_jsonl('{"body": "a"}\n'), r"a.jsonl:1 has no text in the field 'text', only body; set data.column"),
        (bad_file("a.bin", b""), r"a.bin is empty; remove it or write it again"),
        (bad_file("a.bin", b"abc"), r"a.bin has 3 bytes, no whole number of uint16 tokens; set data.token_dtype"),
        (bad_file("a.bin", header(20240520, 2, 10, 10)), r"a.bin has version 2 in its header, expected 1; write"),
        (bad_file("a.bin", header(20240520, 1, 11, 10)), r"a.bin holds 10 tokens, but its header says 11; write"),
        (
            bad_file("a.bin", header(20240521, 1, 10, 10)),
            r"a.bin has the magic number 20240521 in its header, expected",
        ),
        (bad_file("a_val.bin", header(20240520, 1, 10, 10)), r"holds no training tokens; add a file without 'val'"),
    ],
)
def test_bad_data_is_refused_in_one_sentence(tmp_path: Path, make: Callable[[Path], DataConfig], sentence: str):
    with pytest.raises(ValueError, match=sentence) as error:
        read_corpus(make(tmp_path), 256)
    assert "\n" not in str(error.value)


def test_a_missing_parquet_column_is_named_with_those_there(tmp_path: Path):
    path = write_parquet(tmp_path / "a.parquet", LINES, "body")
    with pytest.raises(ValueError, match=r"has no column 'text', only body; set data.column"):
        read_corpus(text(path), 256)


def test_a_parquet_row_without_text_is_named(tmp_path: Path):
    path = write_parquet(tmp_path / "a.parquet", [*LINES[:150], None])
    with pytest.raises(ValueError, match="has no text in row 150 of column 'text', got None; mend that row"):
        read_corpus(text(path), 256)


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_bad_tokenizer_is_refused_in_one_sentence(tmp_path: Path, content: str | None):
    name = tmp_path / "tokenizer.json"
    if content is not None:
        name.write_text(content)
    config = text(write_jsonl(tmp_path / "a.jsonl", LINES), tokenizer=str(name))
    with pytest.raises(ValueError, match=r"data.tokenizer .*tokenizer.json (does not exist|is no tokenizers file)"):
        read_corpus(config, 256)


def test_an_unreadable_file_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ValueError, match=r"cannot read .*\.py: permission denied; check the path and its permissions"):
        read_corpus(DataConfig(), 256)


def test_a_corpus_that_does_not_fit_the_model_says_what_to_set(tmp_path: Path):
    source = read_corpus(text(write_jsonl(tmp_path / "a.jsonl", LINES)), 256)
    there = source.validation.sequences(128)
    check_corpus(source, vocab=256, context=128, evaluation_sequences=there or 0)
    with pytest.raises(ValueError, match=r"ids up to 255, but model.vocab is 100; set model.vocab=256"):
        check_corpus(source, vocab=100, context=128)
    with pytest.raises(
        ValueError, match=rf"holds out {there} validation .* set evaluation.sequences={there} or hold out"
    ):
        check_corpus(source, vocab=256, context=128, evaluation_sequences=1000)
    with pytest.raises(
        ValueError, match=r"not one sequence of model.context 1000000 and its target; add data or lower"
    ):
        check_corpus(source, vocab=256, context=1_000_000)


def test_epochs_are_passes_over_the_training_tokens(tmp_path: Path):
    source = read_corpus(text(write_jsonl(tmp_path / "a.jsonl", LINES)), 256)
    assert source.epochs(2.3 * source.train.total) == pytest.approx(2.3)
    assert read_corpus(DataConfig(source="synthetic"), 16).epochs(1e12) == 0
