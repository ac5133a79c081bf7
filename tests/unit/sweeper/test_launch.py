from dataclasses import replace

import pytest
from builders import TINY, run_spec, tiny_sweep
from typer.testing import CliRunner

from model.config import DataConfig
from sweeper.cli import app
from sweeper.config import load_sweep
from sweeper.errors import ConfigError, DataError, LaunchError
from sweeper.launch import check_runs, launch
from sweeper.records import SweepFolder
from sweeper.spec import Cluster


def test_a_plan_asks_the_hub_for_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sweeper.launch.read_corpus", None)
    spec = run_spec(data=DataConfig(source="hf", path="owner/name", revision="a" * 40, fingerprint="0" * 16))
    assert check_runs([spec], Cluster(), online=False) == ()


def test_blocks_that_this_machine_cannot_compile_are_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    sweep, folder = tiny_sweep(), SweepFolder(tmp_path, "tiny")
    sweep = replace(sweep, execution=replace(sweep.execution, compile="on"))
    with pytest.raises(
        ConfigError, match=r"execution.compile=on cannot be: .* there is no no-such-compiler here; set it"
    ):
        launch(sweep, [run_spec()], folder, follow=lambda _: None, tell=lambda _: None)
    assert not (folder.path / "jobs").exists()


def test_a_batch_that_falls_into_small_parts_is_noted():
    mixture = replace(TINY, mlp="moe", top_k=2, sparsity=2)
    spec = run_spec(model=mixture, batch_tokens=1031 * 32, tokens=1031 * 32)
    (note,) = check_runs([spec], Cluster())
    assert note.startswith("a batch of 1031 sequences falls into equal parts of 1 (at most 1024 are wanted): experts")
    assert check_runs([run_spec(model=mixture)], Cluster()) == ()


def test_a_launch_reads_the_start_of_a_stream(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "train.txt").write_text("too little\n" * 20)
    data = DataConfig(source="hf", path=str(tmp_path), fingerprint="0" * 16)
    spec = run_spec(data=data, model=replace(TINY, vocab=256))
    with pytest.raises(DataError, match=r"holds out 0 validation sequences of 32 tokens"):
        check_runs([spec], Cluster())


def test_a_dataset_is_prepared_as_shards(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.txt").write_text("".join(f"line {i}\n" for i in range(200)))
    ended = CliRunner().invoke(app, ["data", "prepare", f"hf:{tmp_path / 'd'}", str(tmp_path / "shards")])
    assert (ended.exit_code, sorted(path.name for path in (tmp_path / "shards").iterdir())) == (
        0,
        ["train_000000.bin", "val_000000.bin"],
    )
    ended = CliRunner().invoke(
        app, ["data", "prepare", f"hf:{tmp_path / 'd'}", str(tmp_path / "other"), "--split", "test"]
    )
    assert "has no split 'test', only train; set data.split" in str(ended.exception)


def test_triton_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr("sweeper.launch.find_spec", lambda name: None if name == "triton" else object())
    sweep = load_sweep("quickstart", ["execution.triton=true"])
    with pytest.raises(LaunchError, match=r"execution\.triton needs Triton and none is installed here; pip install"):
        launch(sweep, (), SweepFolder(tmp_path, "quickstart"), follow=print, tell=print)
