"""The command that hands a trained model on."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sweeper.cli.arguments import AsJson, RunsFolder
from sweeper.cli.steering import open_runs
from sweeper.errors import SweeperError


def export(
    name: Annotated[str, typer.Argument(metavar="NAME|FOLDER", help="A sweep, or the folder of one of its runs.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN] [OVERRIDE]...",
            help="A run, by the start of its run_id or by a condition that one run satisfies; overrides of the launch.",
        ),
    ] = None,
    runs: RunsFolder = Path("runs"),
    out: Annotated[Path | None, typer.Option("--out", help="Gets native/ and hf/ (runs/NAME/exports/RUN_ID).")] = None,
    form: Annotated[str, typer.Option("--format", help="both, native or hf.")] = "both",
    folding: Annotated[
        bool, typer.Option("--fold/--no-fold", help="Whether native weights have scale vectors folded into them.")
    ] = True,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float16 or float64.")] = "float32",
    as_json: AsJson = False,
) -> None:
    """Write the last weights of a run as safetensors, and as a Hugging Face checkpoint where one computes the same.

    The run must have kept them: launch with execution.checkpoint.keep_final=true.

    Example: sweeper export quickstart 3fa91b07 --format hf
    """
    try:
        from sweeper.exporting import Dtype, Format, export_run
    except ModuleNotFoundError as error:
        hint = "pip install 'sweeper-lm[train]'"
        raise SweeperError(f"exporting needs {error.name}, which is not installed here; {hint}") from error
    from sweeper.records import SweepFolder
    from sweeper.selection import RUN_ID, choose_one, named_one
    from sweeper.typed import convert, plain

    typed_form: Format = convert(Format, form, "--format")
    typed_dtype: Dtype = convert(Dtype, dtype, "--dtype")
    place = Path(name)
    if (place / "spec.json").is_file():
        if words:
            raise SweeperError(f"{name} is a run already; leave out {words[0]!r}, or give the sweep's name instead")
        whole = place.resolve()
        folder, run_id = SweepFolder(whole.parents[2], whole.parents[1].name), whole.name
    elif (place.is_dir() or "/runs/" in name) and not place.suffix:
        raise SweeperError(
            f"{name} is not the folder of a run; give runs/SWEEP/runs/RUN_ID with the whole run_id, or a sweep's "
            "name and the start of the run_id"
        )
    else:
        word = named_one(words or [])
        opened = open_runs(name, words, runs, ask=not RUN_ID.match(word))
        folder, run_id = opened.folder, choose_one(opened.rows, opened.specs, word).run_id
    made = export_run(folder, run_id, out, form=typed_form, folding=folding, dtype=typed_dtype)
    if as_json:
        typer.echo(json.dumps({"run_id": run_id, **plain(made)}, default=str))
        return
    typer.echo(f"run {run_id}: {len(made.folded)} scale vectors folded into matrices, {len(made.kept)} kept")
    if made.kept:
        kinds = sorted({vector.split(".", 2)[-1] for vector in made.kept})
        typer.echo(f"kept, since no matrix takes them: {', '.join(kinds)}")
    for folder_, what in ((made.native, "safetensors"), (made.hf, "Hugging Face")):
        if folder_ is not None:
            typer.echo(f"{what}: {folder_}")
    if made.why_no_hf:
        typer.echo(f"no Hugging Face checkpoint: {made.why_no_hf}")
