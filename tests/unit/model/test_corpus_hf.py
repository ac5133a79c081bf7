"""Local files stand in for the hub: the same builders read both."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import model.corpus.hf
import model.corpus.streamed
from model.config import (
    DataConfig,
    EvaluationConfig,
    Execution,
    ModelConfig,
    OptimizerConfig,
    Rates,
    ScheduleConfig,
    Seeds,
    TrainConfig,
)
from model.corpus import (
    Corpus,
    IntArray,
    check_corpus,
    check_fingerprint,
    fingerprint,
    is_on_hub,
    prepare_shards,
    read_corpus,
    side_of,
    with_fingerprint,
)
from model.corpus.ahead import ahead
from model.corpus.hf import index_folder, read_stream
from model.data import open_data
from model.train import Member, train

CONTEXT = 32
DOCUMENTS = [f"{i:04d}: {hashlib.sha256(str(i).encode()).hexdigest() * (1 + i % 3)}\n" for i in range(300)]
TRAINED = [text for text in DOCUMENTS if side_of(text.encode(), 0.05) == "train"]
HELD_OUT = [text for text in DOCUMENTS if side_of(text.encode(), 0.05) == "validation"]
EPOCH = sum(len(text) + 1 for text in TRAINED)
"""Tokens: bytes, with a NUL after each document."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts without an index, and places lie close to one another."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))
    monkeypatch.setattr(model.corpus.streamed, "PLACE_TOKENS", 2000)


def write(folder: Path, kind: str = "parquet", texts: list[Any] = DOCUMENTS, column: str = "text") -> Path:
    """The documents in three shards of a folder."""
    folder.mkdir()
    for k in range(3):
        part = texts[len(texts) * k // 3 : len(texts) * (k + 1) // 3]
        name = folder / f"train-{k}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.table({"id": list(range(len(part))), column: part}), name, row_group_size=40)
        elif kind == "jsonl":
            name.write_text("".join(json.dumps({"id": i, column: text}) + "\n" for i, text in enumerate(part)))
        else:
            name.write_text("".join(part))
    return folder


def hf(path: Path | str, **settings: Any) -> DataConfig:
    return DataConfig(**{"source": "hf", "path": str(path), "shuffle_buffer": 50, **settings})


def read(config: DataConfig, seed: int | None = 1) -> Corpus:
    return read_corpus(config, 256, seed)


def straight(config: DataConfig, windows: int, seed: int | None = 1) -> IntArray:
    """The first windows, read front to back."""
    stream = read(config, seed).train
    return np.concatenate([stream.windows(np.arange(n, min(n + 7, windows)), CONTEXT) for n in range(0, windows, 7)])


def text_of(windows: IntArray) -> str:
    """What windows that follow one another hold."""
    return bytes(windows[:, :-1].astype(np.uint8).ravel()).decode()


def index_files(config: DataConfig) -> list[Path]:
    return sorted(index_folder(config, fingerprint(config, 256)).glob("*.json"))


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "txt"])
def test_every_training_document_comes_once_an_epoch_and_no_held_out_one(tmp_path: Path, kind: str):
    config = hf(write(tmp_path / "d", kind))
    found = text_of(straight(config, EPOCH // CONTEXT + 1))[:EPOCH].split("\0")
    expected = [text.rstrip("\n") if kind == "txt" else text for text in TRAINED]
    if kind == "txt":  # a line without its end is another document, with a hash of its own
        lines = [text.rstrip("\n") for text in DOCUMENTS]
        expected = [text for text in lines if side_of(text.encode(), 0.05) == "train"]
        found = [*found[: len(expected)], ""]
    assert sorted(found[:-1]) == sorted(expected)
    assert found[:-1] != expected


def test_a_glob_and_a_file_are_datasets_too(tmp_path: Path):
    folder = write(tmp_path / "d", "jsonl")
    whole = straight(hf(folder), 40)
    assert np.array_equal(straight(hf(f"{folder}/*.jsonl"), 40), whole)
    assert text_of(straight(hf(folder / "train-1.jsonl", shuffle_buffer=0), 40)).startswith("0100: ")


def test_without_a_buffer_documents_come_in_the_order_of_the_stream(tmp_path: Path):
    found = text_of(straight(hf(write(tmp_path / "d"), shuffle_buffer=0), EPOCH // CONTEXT))
    assert "\0".join(TRAINED).startswith(found)


def test_a_seed_orders_the_documents_of_a_block_and_every_epoch_anew(tmp_path: Path):
    config = hf(write(tmp_path / "d"))
    first, second = (text_of(straight(config, 2 * EPOCH // CONTEXT + 1, seed)) for seed in (1, 2))
    assert first != second
    assert first[:EPOCH] != first[EPOCH : 2 * EPOCH]
    assert sorted(first[:EPOCH].split("\0")) == sorted(first[EPOCH : 2 * EPOCH].split("\0"))
    block = [text for text in DOCUMENTS[:50] if text in TRAINED]
    for found in (first, second):
        assert sorted(found.split("\0")[: len(block)]) == sorted(block)


@pytest.mark.parametrize(
    ("kind", "buffer"), [("parquet", 0), ("parquet", 1), ("parquet", 50), ("parquet", 10_000), ("jsonl", 7)]
)
def test_a_reader_that_seeks_sees_what_a_straight_reader_saw(tmp_path: Path, kind: str, buffer: int):
    config = hf(write(tmp_path / "d", kind), shuffle_buffer=buffer)
    windows = 5 * EPOCH // (2 * CONTEXT)
    whole = straight(config, windows)
    for number in (windows - 1, windows // 2, EPOCH // CONTEXT, 3):
        found = read(config).train.windows(np.arange(number, number - 3, -1), CONTEXT)
        assert np.array_equal(found, whole[number : number - 3 if number > 2 else None : -1])


def test_a_reader_may_jump_forwards_and_back(tmp_path: Path):
    config = hf(write(tmp_path / "d"))
    whole = straight(config, 2000)
    stream = read(config).train
    rng = np.random.default_rng(0)
    for _ in range(8):
        numbers = rng.integers(0, 2000, size=5)
        assert np.array_equal(stream.windows(numbers, CONTEXT), whole[numbers])


def test_a_seek_reads_no_more_than_the_way_from_the_nearest_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = hf(write(tmp_path / "d"))
    straight(config, EPOCH // CONTEXT - 10)
    read_documents = []

    def counted(*args: Any) -> Iterator[Any]:
        for reached in read_stream(*args):
            read_documents.append(reached)
            yield reached

    monkeypatch.setattr("model.corpus.sources.read_stream", counted)
    monkeypatch.setattr(model.corpus.streamed, "PARTS_AHEAD", 1)
    read(config, seed=2).train.windows(np.array([EPOCH // CONTEXT - 30]), CONTEXT)
    assert 0 < len(read_documents) <= 150  # a block, the place before it, and what is read ahead


def test_runs_of_all_seeds_share_the_places(tmp_path: Path):
    config = hf(write(tmp_path / "d"))
    straight(config, EPOCH // CONTEXT + 1, seed=1)
    places = {path.name: path.read_bytes() for path in index_files(config)}
    assert len(places) > 5
    straight(config, EPOCH // CONTEXT + 1, seed=2)
    assert {path.name: path.read_bytes() for path in index_files(config)} == places
    assert json.loads(places["total.json"]) == {"tokens": EPOCH}


def test_a_damaged_place_is_passed_over(tmp_path: Path):
    config = hf(write(tmp_path / "d"))
    whole = straight(config, EPOCH // CONTEXT + 9)
    for path in index_files(config)[::2]:
        path.write_text(path.read_text()[:10])
    (index_files(config)[0].parent / "total.json").write_text("[]")
    numbers = np.array([EPOCH // CONTEXT + 8, EPOCH // CONTEXT - 20])
    assert np.array_equal(read(config).train.windows(numbers, CONTEXT), whole[numbers])


def test_an_index_that_cannot_be_written_costs_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    config = hf(write(tmp_path / "d"))
    whole = straight(config, 500)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    assert np.array_equal(straight(config, 500), whole)
    assert "a resume will read the stream from an earlier place" in caplog.text


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_order_does_not_depend_on_the_world_size_or_on_what_was_read_before(tmp_path: Path, world_size: int):
    config = hf(write(tmp_path / "d"))
    model = ModelConfig(width=64, depth=2, head_size=32, kv_heads=1, vocab=256, context=CONTEXT)
    whole = open_data(config, model, seed=1)
    batches = [whole.batch(step, 24)[0].numpy() for step in range(6)]
    share = 24 // world_size
    ranks = [open_data(config, model, seed=1) for _ in range(world_size)]
    for step in (2, 3, 5):
        parts = [data.batch(step, 24, r * share, (r + 1) * share)[0].numpy() for r, data in enumerate(ranks)]
        assert np.array_equal(np.concatenate(parts), batches[step])


def test_the_validation_set_is_the_start_of_what_is_held_out_for_every_seed(tmp_path: Path):
    config = hf(write(tmp_path / "d"))
    one, two = (read(config, seed).validation for seed in (1, 2))
    windows = one.windows(np.arange(20), CONTEXT)
    assert "\0".join(HELD_OUT).startswith(text_of(windows))
    assert np.array_equal(two.windows(np.arange(5, 15), CONTEXT), windows[5:15])


def test_the_validation_set_needs_only_the_start_of_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = hf(write(tmp_path / "d"))
    read_documents = []

    def counted(*args: Any) -> Iterator[Any]:
        for reached in read_stream(*args):
            read_documents.append(reached)
            yield reached

    monkeypatch.setattr("model.corpus.sources.read_stream", counted)
    read(config).validation.windows(np.arange(4), CONTEXT)
    assert 0 < len(read_documents) <= 100


def test_too_few_held_out_sequences_are_counted_before_training(tmp_path: Path):
    corpus = read(hf(write(tmp_path / "d")))
    there = (sum(len(text) + 1 for text in HELD_OUT) - 1) // CONTEXT
    check_corpus(corpus, vocab=256, context=CONTEXT, evaluation_sequences=there)
    with pytest.raises(
        ValueError,
        match=rf"holds out {there} validation .* asks for {there + 1}; set evaluation.sequences={there} or raise",
    ):
        check_corpus(corpus, vocab=256, context=CONTEXT, evaluation_sequences=there + 1)


def test_a_block_ends_early_where_documents_are_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model.corpus.streamed, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(model.corpus.streamed, "ENCODED_AT_ONCE", 300)
    config = hf(write(tmp_path / "d"), shuffle_buffer=10_000)
    found = text_of(straight(config, EPOCH // CONTEXT)).split("\0")
    distance = max(abs(TRAINED.index(text) - i) for i, text in enumerate(found[:-1]))
    assert 0 < distance <= 14
    assert np.array_equal(read(config).train.windows(np.array([900]), CONTEXT)[0], straight(config, 901)[900])


def test_rows_without_text_have_no_tokens(tmp_path: Path):
    texts = [None if i % 3 else text for i, text in enumerate(DOCUMENTS)]
    found = text_of(straight(hf(write(tmp_path / "d", "jsonl", texts), shuffle_buffer=0), 200))
    assert "\0".join(text for text in DOCUMENTS[::3] if text in TRAINED).startswith(found)


# Identity


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path):
    folder = write(tmp_path / "d")
    found = fingerprint(hf(folder), 256)
    assert fingerprint(hf(write(tmp_path / "elsewhere")), 256) == found
    assert fingerprint(hf(f"{folder}/*.parquet"), 256) == found
    others = {
        fingerprint(hf(write(tmp_path / "changed", texts=[*DOCUMENTS[:-1], "x"])), 256),
        fingerprint(hf(write(tmp_path / "jsonl", "jsonl")), 256),
        fingerprint(hf(write(tmp_path / "column", column="body"), column="body"), 256),
        fingerprint(hf(folder, shuffle_buffer=51), 256),
    }
    assert len(others | {found}) == 5


def test_the_fingerprint_contains_the_tokenizer(tmp_path: Path):
    folder = write(tmp_path / "d")
    found = set()
    for text in ("one", "two"):
        (tmp_path / "tokenizer.json").write_text(text)
        found.add(fingerprint(hf(folder, tokenizer=str(tmp_path / "tokenizer.json")), 256))
    assert len(found) == 2


def test_a_dataset_on_the_hub_is_named_by_its_commit_without_asking_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model.corpus.hf, "find_commit", None)
    config = hf("owner/name", revision="a" * 40)
    planned = with_fingerprint(config, 256)
    assert planned.path == "owner/name"
    changes = ({"revision": "b" * 40}, {"subset": "x"}, {"split": "test"}, {"path": "owner/other"}, {"column": "body"})
    found = {fingerprint(replace(config, **change), 256) for change in changes}
    assert len(found | {planned.fingerprint}) == 6


def test_what_lies_here_goes_before_the_hub_unless_a_commit_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert is_on_hub(hf("owner/name"))
    (tmp_path / "owner").mkdir()
    write(tmp_path / "owner" / "name")
    assert not is_on_hub(hf("owner/name"))
    assert with_fingerprint(hf("owner/name"), 256).path == str(tmp_path / "owner" / "name")
    assert is_on_hub(hf("owner/name", revision="a" * 40))


def test_a_branch_is_refused_with_the_commit_to_pin(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model.corpus.hf, "find_commit", lambda *_: "c" * 40)
    with pytest.raises(ValueError, match=rf"owner/name .*; set data.revision={'c' * 40}, its main branch of today$"):
        fingerprint(hf("owner/name"), 256)
    with pytest.raises(ValueError, match=rf"; set data.revision={'c' * 40}, its v1.0 of today$"):
        fingerprint(hf("owner/name", revision="v1.0"), 256)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError, r"which cannot be reached; check the path, or set data.revision to the commit of the dataset"),
        (LookupError, r"where no such dataset is known; check data.path"),
    ],
)
def test_a_name_that_the_hub_does_not_answer_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], sentence: str
):
    def failing(name: str, revision: str) -> str:
        raise error(name)

    monkeypatch.setattr(model.corpus.hf, "find_commit", failing)
    with pytest.raises(ValueError, match=sentence):
        fingerprint(hf("owner/name"), 256)


def test_changed_files_are_refused(tmp_path: Path):
    folder = write(tmp_path / "d", "jsonl")
    planned = with_fingerprint(hf(folder), 256)
    check_fingerprint(planned, 256)
    with (folder / "train-2.jsonl").open("a") as file:
        file.write('{"id": 0, "text": "more"}\n')
    with pytest.raises(ValueError, match=r"has the fingerprint \w+, but the run was planned with"):
        check_fingerprint(planned, 256)


# What cannot be read


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "txt"])
def test_a_missing_column_is_named(tmp_path: Path, kind: str):
    config = hf(write(tmp_path / "d", kind), column="body")
    with pytest.raises(ValueError, match=r"d has no column 'body', only (id, )?text; set data.column$"):
        straight(config, 1)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"split": "test"}, r"has no split 'test', only train; set data.split$"),
        (
            {"subset": "en"},
            r"cannot be read as a dataset \(builderConfig 'en' not found.*; check data.path, data.subset",
        ),
    ],
)
def test_a_missing_split_or_subset_is_named(tmp_path: Path, settings: dict[str, str], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        straight(hf(write(tmp_path / "d"), **settings), 1)


@pytest.mark.parametrize("path", ["/no/such/folder", "nothing", "./no/folder", "no/*.jsonl"])
def test_a_missing_place_is_named(path: str):
    for opened in (lambda: fingerprint(hf(path), 256), lambda: straight(hf(path), 1)):
        with pytest.raises(ValueError, match=r"^data.path .*(does not exist; check the path|matches no file; check)"):
            opened()


def test_an_empty_folder_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"cannot be read as a dataset \(the directory at .* doesn't contain any data"):
        fingerprint(hf(tmp_path), 256)


def test_what_is_no_text_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"has no text in its column 'id', got 0; set data.column to one that holds"):
        straight(hf(write(tmp_path / "d"), column="id"), 1)


def test_a_broken_file_is_named_in_the_thread_that_asks(tmp_path: Path):
    (write(tmp_path / "d", "jsonl") / "train-2.jsonl").write_text('{"text": "a"')
    stream = read(hf(tmp_path / "d")).train
    stream.windows(np.array([0]), CONTEXT)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"d cannot be read as a dataset \(JSON parse error"):
            stream.windows(np.array([EPOCH // CONTEXT]), CONTEXT)


def test_a_dataset_without_training_text_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds no text to train on; check data.path"):
        straight(hf(write(tmp_path / "d", texts=[""] * 9)), 1)


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = hf(write(tmp_path / "d"))
    monkeypatch.setattr(model.corpus.hf, "find_spec", lambda _: None)
    for opened in (lambda: fingerprint(config, 256), lambda: straight(config, 1)):
        with pytest.raises(
            ValueError, match=r"^data=hf needs the package datasets; .*pip install 'sweeper-lm\[data\]'$"
        ):
            opened()


def test_other_sources_do_not_import_the_package():
    code = (
        "import sys, model.corpus as c; from model.config import DataConfig as D\n"
        "c.fingerprint(D(source='synthetic'), 8)\n"
        "c.fingerprint(D(source='hf', path='a/b', revision='a' * 40), 8); sys.exit('datasets' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# The thread that reads ahead


def test_reading_ahead_is_bounded_and_ends_with_its_reader():
    made: list[int] = []
    closed: list[bool] = []

    def numbers() -> Iterator[int]:
        try:
            for n in range(10**9):
                made.append(n)
                yield n
        finally:
            closed.append(True)

    items = ahead(numbers(), 4)  # type: ignore[arg-type]
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()  # type: ignore[attr-defined]
    assert closed
    assert len(made) <= 3 + 4 + 2


def test_a_process_that_ends_in_the_middle_of_a_stream_ends_well(tmp_path: Path):
    folder = write(tmp_path / "d")
    code = (
        "import numpy as np; from model.corpus import read_corpus; from model.config import DataConfig\n"
        f"c = read_corpus(DataConfig(source='hf', path={str(folder)!r}, shuffle_buffer=1), 256, 1)\n"
        "print(c.train.windows(np.array([3]), 32).shape)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "(1, 33)\n", "")


# What uses a stream


def test_a_stream_is_written_as_shards(tmp_path: Path):
    config = hf(write(tmp_path / "d"))
    prepare_shards(config, tmp_path / "shards")
    shards = read_corpus(DataConfig(source="shards", path=str(tmp_path / "shards")), 256)
    assert shards.train.total == EPOCH
    assert text_of(shards.train.windows(np.arange(90), CONTEXT)) == text_of(
        straight(replace(config, shuffle_buffer=0), 90)
    )


class Stopper:
    """An observer that keeps the losses, and asks to stop once the run has looked so often."""

    def __init__(self, looks: int) -> None:
        self.rows: dict[float, float] = {}
        self.looks = looks

    def metrics(self, _member: int, row: Any) -> None:
        self.rows[row["step"]] = row["loss"]

    def progress(self, *_: Any) -> None:
        pass

    def should_stop(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path):
    config = TrainConfig(
        model=ModelConfig(width=16, depth=1, head_size=8, kv_heads=2, vocab=256, context=CONTEXT),
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(),
        data=with_fingerprint(hf(write(tmp_path / "d")), 256),
        evaluation=EvaluationConfig(sequences=8),
        seed=Seeds(),
        rates=Rates(hidden=0.01, head=0.01, embedding=0.01, vector=0.01),
        tokens=EPOCH + 20 * 8 * CONTEXT,
        batch_tokens=64 * CONTEXT,
    )
    runs = []
    for name, looks in (("whole", [10**9]), ("parts", [3, 2, 10**9])):
        rows: dict[float, float] = {}
        for each in looks:
            observer = Stopper(each)
            execution = Execution(device="cpu", log_every=1)
            (outcome,) = train(
                [Member(config=config, checkpoints=tmp_path / name)], execution, observer, observer.should_stop
            )
            rows |= observer.rows
        runs.append((outcome.state, outcome.loss, rows))
    assert runs[0][0] == "done"
    assert len(runs[0][2]) == config.steps
    assert runs[0] == runs[1]
