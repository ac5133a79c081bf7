"""`sweeper export` on runs that kept their weights, as a person types it."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from builders import run_record
from commands import sweeper
from vector_models import randomise

from model.checkpoint import write_final
from model.export import read_native
from model.transformer import Transformer
from sweeper.config import load_sweep
from sweeper.grid import expand
from sweeper.records import SweepFolder, write_record, write_spec

ONE_CELL = ["axes.tokens=[16384]", "derive.lr=lr"]


def trained(runs: Path, *overrides: str) -> tuple[str, Transformer, Path]:
    """A run that is done and kept its weights: its run_id, its model, its folder."""
    (spec,) = expand(load_sweep("quickstart", [*ONE_CELL, *overrides]))
    model = randomise(Transformer(spec.train.model, spec.train.rates, seed=1))
    folder = SweepFolder(runs, "quickstart")
    write_spec(folder, spec)
    write_record(folder, run_record(spec))
    write_final(folder.run(spec.run_id) / "checkpoint", dict(model.named_parameters()), config=spec.train)
    return spec.run_id, model, folder.run(spec.run_id)


def test_a_run_is_exported_by_its_name_and_computes_the_same(tmp_path):
    run_id, model, _ = trained(tmp_path / "runs", "vectors=hg")
    done = sweeper("export", "quickstart", run_id[:6], *ONE_CELL, "vectors=hg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "13 scale vectors folded into matrices, 4 kept" in done.stdout
    out = tmp_path / "runs" / "quickstart" / "exports" / run_id
    tokens = torch.arange(40).reshape(2, 20)
    torch.testing.assert_close(read_native(out / "native")(tokens), model(tokens), rtol=0, atol=1e-4)
    described = json.loads((out / "native" / "config.json").read_text())
    assert (described["run_id"], described["tokenizer"]) == (run_id, "bytes")
    assert json.loads((out / "hf" / "config.json").read_text())["model_type"] == "qwen3_next"
    mode = 0o666 & ~_umask()
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*.*")} == {mode}
    assert {path.name for path in out.rglob("*.*")} == {"config.json", "model.safetensors"}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_folder_of_a_run_will_do_and_what_has_no_counterpart_is_said(tmp_path):
    run_id, model, folder = trained(tmp_path / "runs", "vectors=unified")
    done = sweeper("export", str(folder), "--out", "given", "--no-fold", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["run_id"], answer["hf"], answer["folded"]) == (run_id, None, [])
    assert "vectors.placement=dnp" in answer["why_no_hf"]
    tokens = torch.arange(40).reshape(2, 20)
    torch.testing.assert_close(read_native(tmp_path / "given" / "native")(tokens), model(tokens), rtol=0, atol=1e-6)
    refused = sweeper("export", str(folder), "--format", "hf", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        f"error: run {run_id}: no architecture of transformers has model.vectors.placement"
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "kept no weights: launch with execution.checkpoint.keep_final=true"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), "is damaged: its content does not match"),
    ],
)
def test_weights_that_are_not_there_are_one_sentence(tmp_path, damage, words):
    _, _, folder = trained(tmp_path / "runs")
    damage(next((folder / "checkpoint").glob("final-*.pt")))
    done = sweeper("export", str(folder), cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr
    assert not (tmp_path / "runs" / "quickstart" / "exports").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["quickstart"], "no run is named; give the start of its run_id, or a condition"),
        (
            ["runs/quickstart/runs/abc"],
            "runs/quickstart/runs/abc is not the folder of a run; give runs/SWEEP/runs/RUN_ID",
        ),
        (["quickstart", *ONE_CELL, "state=='new'"], "has not been launched; launch it with execution.checkpoint.keep"),
        (["quickstart", "3fa9", "--format", "gguf"], "--format: got 'gguf'; choose one of both, hf, native"),
    ],
)
def test_what_is_no_run_is_one_sentence(tmp_path, arguments, words):
    done = sweeper("export", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr
