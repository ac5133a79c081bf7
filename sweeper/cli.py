"""The command line: each command reads its arguments, calls the library and prints."""

import importlib.util
import json
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import sweeper
from sweeper.errors import DataError, DiskError, SweeperError

if TYPE_CHECKING:
    from sweeper.fits.optimum import Method
    from sweeper.sources import Asked

app = typer.Typer(
    name="sweeper",
    help="Learning-rate sweeps for language-model pre-training: plan, launch, collect, fit, predict, plot.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Prepare token files.", no_args_is_help=True)
app.add_typer(data_app, name="data")

SweepName = Annotated[str, typer.Argument(help="A sweep: the name of a file in sweeps/ or the path of one.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Hydra overrides such as model.depth=4, scale=tiny or 'axes.lr=geom(5e-3,0.16,6)'."),
]
RunsFolder = Annotated[
    Path, typer.Option("--runs", envvar="SWEEPER_RUNS", help="Folder that holds the results of all sweeps.")
]
Source = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="A sweep, or a .csv, .tsv, .jsonl or .parquet file, one row per run.")
]
Lr = Annotated[str, typer.Option("--lr", help="Column of the learning rate (lr_peak, else lr).")]
Loss = Annotated[str, typer.Option("--loss", help="Column of the loss.")]
Map = Annotated[
    list[str] | None, typer.Option("--map", help="Our name for a column of the file: tokens=D. May be repeated.")
]
By = Annotated[str, typer.Option("--by", help="Columns, by commas, whose every combination has one optimum.")]
Per = Annotated[str, typer.Option("--per", help="Columns, by commas, that separate laws and curves, such as arm.")]
Laws = Annotated[list[str] | None, typer.Option("--law", help='A power law: "lr_peak ~ tokens". May be repeated.')]
Curves = Annotated[list[str] | None, typer.Option("--curve", help='A loss curve: "loss ~ flops". May be repeated.')]
Baseline = Annotated[str, typer.Option("--baseline", help="The arm that compute leverage is measured against.")]
Where = Annotated[str, typer.Option("--where", help="Rows to use: \"depth == 16 and state != 'failed'\".")]
MethodName = Annotated[str, typer.Option("--method", help="Estimator of the optimum: linex, parabola or argmin.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]

EXIT_RUNS_FAILED = 3
EXIT_OVER_BUDGET = 4
EXIT_INTERRUPTED = 130


SCHEMA_VERSION = 1


def main() -> None:
    """Run the command line; what a user can mend is one sentence on stderr and its exit code."""
    code: str | int | None = 0
    closed = False
    try:
        check_packages()
        app()
    except SweeperError as error:
        typer.echo(f"error: {error}", err=True)
        code = error.exit_code
    except SystemExit as end:
        # A reader that had enough (`sweeper plan … | head`) is no failure, but Typer and rich leave with 1 for it.
        closed = isinstance(end.__context__, BrokenPipeError)
        code = 0 if closed else end.code
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        closed = True
    if closed:  # what is still in the buffers has nowhere to go when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def check_packages() -> None:
    """Assert that `model` and `kernels`, which other distributions also install, are ours."""
    home = Path(sweeper.__file__).resolve().parent.parent
    for name in ("model", "kernels"):
        found = importlib.util.find_spec(name)
        origin = Path(found.origin).resolve().parent.parent if found and found.origin else None
        if origin != home:
            raise SweeperError(
                f"the package {name!r} is imported from {origin} but sweeper's own lies in {home}; "
                f"uninstall the other distribution or use an environment of sweeper's own"
            )


@app.command()
def plan(
    name: SweepName,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
    budget: Annotated[
        float | None, typer.Option(min=0, help="GPU-hours at hand; exit code 4 if more are left to run.")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="Rows of the table; 0 prints all.")] = 60,
) -> None:
    """Show the runs of a sweep, what they cost and which are done.

    Example: sweeper plan quickstart model.depth=4 'axes.lr=geom(5e-3,0.16,6)'
    """
    from sweeper.launch import check_runs, plan_sweep
    from sweeper.plan import plan_json
    from sweeper.sources import open_sweep
    from sweeper.terminal.plan import print_plan

    sweep, specs, folder = open_sweep(name, overrides or [], runs)
    notes = (*sweep.notes, *check_runs(specs, sweep.cluster, online=False))
    planned = plan_sweep(sweep, specs, folder)
    if as_json:
        typer.echo(json.dumps(plan_json(planned, notes)))
    else:
        print_plan(planned, sweep.title, notes, rows=rows)
    if budget is not None and planned.totals.gpu_hours_left > budget:
        typer.echo(
            f"over budget: {planned.totals.gpu_hours_left:.4g} {planned.device}-hours left to run, {budget:g} at hand",
            err=True,
        )
        raise typer.Exit(EXIT_OVER_BUDGET)


@app.command()
def launch(
    name: SweepName,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run, with the scripts for SLURM; start nothing.")
    ] = False,
    budget: Annotated[
        float | None, typer.Option(min=0, help="GPU-hours at hand; start nothing if more are left.")
    ] = None,
    canary: Annotated[
        bool, typer.Option("--canary", help="The smallest and the largest run first; the others once these are done.")
    ] = False,
    keeper: Annotated[
        bool, typer.Option("--keeper", help="Also submit a one-CPU job that tends the sweep to its end.")
    ] = False,
) -> None:
    """Train every run of a sweep that has no result yet; again after Ctrl-C, a crash or a wider grid.

    On this machine it stays to the end; on a SLURM cluster it submits and returns.

    Example: sweeper launch quickstart
    """
    from sweeper.launch import launch as launch_sweep
    from sweeper.launch import plan_sweep
    from sweeper.sources import collect_sweep, open_sweep
    from sweeper.status import FINISHED
    from sweeper.terminal.launch import Progress, print_launch

    if dry_run or budget is not None:
        plan(name, overrides, runs, budget=budget)
    sweep, specs, folder = open_sweep(name, overrides or [], runs)
    if sweep.cluster.scheduler == "slurm":
        from sweeper.submission import dry_run as scripts
        from sweeper.submission import submit_keeper, submit_sweep
        from sweeper.terminal.submission import print_scripts, print_submission, tell

        if dry_run:
            print_scripts(scripts(sweep, plan_sweep(sweep, specs, folder), folder))
            return
        submission = submit_sweep(sweep, specs, folder, tell=tell, canary=canary)
        kept = submit_keeper(folder) if keeper else None
        print_submission(submission, sweep, _same_cells(name, overrides, runs), kept)
        return
    if canary or keeper:
        raise SweeperError(f"--canary and --keeper are for clusters; {sweep.cluster.name} runs on this machine")
    if dry_run:
        return
    with Progress(sweep.name) as progress:
        result = launch_sweep(sweep, specs, folder, follow=progress.show, tell=progress.note)
    collected = collect_sweep(specs, folder)
    print_launch(result, collected, sweep.name, _same_cells(name, overrides, runs))
    if result.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if result.failures or not set(result.states) <= FINISHED:
        raise typer.Exit(EXIT_RUNS_FAILED)


def _same_cells(name: str, overrides: list[str] | None, runs: Path) -> str:
    """The words after a command's name that mean the same cells in the same folder, as a shell takes them."""
    elsewhere = ["--runs", str(runs)] if runs != Path(os.environ.get("SWEEPER_RUNS", "runs")) else []
    return shlex.join([name, *(overrides or []), *elsewhere])


@app.command()
def collect(name: SweepName, overrides: Overrides = None, runs: RunsFolder = Path("runs")) -> None:
    """Gather the records of a sweep into results.csv and results.parquet.

    Example: sweeper collect quickstart
    """
    from sweeper.records import read_records
    from sweeper.sources import collect_sweep, open_sweep
    from sweeper.status import count_states

    _, specs, folder = open_sweep(name, overrides or [], runs)
    records = read_records(folder)
    wanted = {spec.run_id for spec in specs}
    typer.echo(str(collect_sweep(specs, folder)))
    states = ", ".join(f"{n} {s}" for s, n in count_states(r.state for i, r in records.items() if i in wanted).items())
    others = len(records.keys() - wanted)
    typer.echo(
        f"{states or 'no run finished'} of {len(wanted)} cells"
        + (f"; {others} records of other grids of this sweep left out" if others else "")
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _method(name: str) -> "Method":
    from sweeper.fits.optimum import Method
    from sweeper.typed import convert

    method: Method = convert(Method, name, "--method")
    return method


def _asked(
    *,
    lr: str,
    map_: list[str] | None,
    by: str,
    per: str,
    where: str,
    law: list[str] | None = None,
    curve: list[str] | None = None,
    baseline: str = "",
) -> "Asked":
    """The options about columns and fits as the library takes them."""
    from sweeper.sources import Asked

    return Asked(
        lr=lr,
        mapping=tuple(map_ or ()),
        by=_names(by),
        per=_names(per),
        laws=tuple(law or ()),
        curves=tuple(curve or ()),
        baseline=baseline,
        where=where,
    )


@app.command()
def fit(
    source: Source,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    lr: Lr = "",
    loss: Loss = "loss",
    map_: Map = None,
    by: By = "",
    per: Per = "",
    law: Laws = None,
    curve: Curves = None,
    baseline: Baseline = "",
    where: Where = "",
    method: MethodName = "linex",
    as_json: AsJson = False,
) -> None:
    """Fit learning-rate optima, their power laws and loss curves to a sweep or to any table of runs.

    Example: sweeper fit runs.csv --lr learning_rate --map tokens=D --by tokens
    """
    from sweeper.analysis import fit_question
    from sweeper.records import write_json
    from sweeper.sources import Asked, open_source
    from sweeper.typed import plain

    asked = _asked(lr=lr, map_=map_, by=by, per=per, where=where, law=law, curve=curve, baseline=baseline)
    found = open_source(source, overrides or [], runs, asked)
    report = fit_question(
        found.table, found.question, method=_method(method), lr=lr, loss=loss, title=Path(found.title).name
    )
    # The file answers the sweep's own question; any other answer is only printed.
    bare = not overrides and asked == Asked() and (method, loss) == ("linex", "loss")
    if found.folder is not None and bare:
        try:
            write_json(found.folder.fits / "fit.json", report)
        except DiskError as error:  # the answer itself needs no disk
            typer.echo(f"warning: the fit is not stored: {error}", err=True)
    if as_json:
        typer.echo(json.dumps(plain(report)))
        return
    from sweeper.terminal.fit import print_fit

    print_fit(report, found.title, found.question.note)


def _targets(pairs: list[str]) -> dict[str, float]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not (name.strip() and equals):
            raise SweeperError(f"--at {pair!r}: expected a column, an equals sign and a number, such as params=1e9")
    return found


@app.command()
def predict(
    source: Source,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    tokens: Annotated[float | None, typer.Option(help="Training tokens of the target run, such as 100e9.")] = None,
    depth: Annotated[int | None, typer.Option(help="Its depth.")] = None,
    width: Annotated[int | None, typer.Option(help="Its width.")] = None,
    batch_tokens: Annotated[float | None, typer.Option(help="Its batch, tokens.")] = None,
    params: Annotated[
        float | None,
        typer.Option(help="Its parameters, for a law along them (a sweep knows those of --width, --depth)."),
    ] = None,
    at: Annotated[
        list[str] | None, typer.Option("--at", help="Any other column of the target: top_k=4. May be repeated.")
    ] = None,
    lr: Lr = "",
    loss: Loss = "loss",
    map_: Map = None,
    by: By = "",
    per: Per = "",
    law: Laws = None,
    where: Where = "",
    method: MethodName = "linex",
    as_json: AsJson = False,
) -> None:
    """Predict the peak learning rate of a run that was never made, with its interval and how far it extrapolates.

    Example: sweeper predict quickstart --tokens 4e6 --depth 4
    """
    from sweeper.analysis import predict_question
    from sweeper.sources import open_source
    from sweeper.typed import plain

    asked = _asked(lr=lr, map_=map_, by=by, per=per, where=where, law=law)
    found = open_source(source, overrides or [], runs, asked)
    given = {"tokens": tokens, "depth": depth, "width": width, "batch_tokens": batch_tokens, "params": params}
    target = {name: float(value) for name, value in given.items() if value is not None} | _targets(at or [])
    if not target:
        raise SweeperError("no target: say where to predict, such as --tokens 100e9 or --at top_k=4")
    predictions = predict_question(
        found.table, found.question, target, specs=found.specs, method=_method(method), lr=lr, loss=loss
    )
    if as_json:
        typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, "predictions": plain(predictions)}))
        return
    from sweeper.terminal.fit import print_predictions

    print_predictions(predictions)


@app.command()
def plot(
    source: Source,
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    figure: Annotated[
        str, typer.Option("--figure", help="Figures, by commas: lr, law, flops (those of the sweep's question).")
    ] = "",
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the figures (runs/NAME/figures).")] = None,
    formats: Annotated[str, typer.Option("--format", help="File formats, by commas.")] = "png,pdf",
    lr: Lr = "",
    loss: Loss = "loss",
    map_: Map = None,
    by: By = "",
    per: Per = "",
    law: Laws = None,
    curve: Curves = None,
    where: Where = "",
    reference: Annotated[
        str, typer.Option("--reference", help="Published laws to draw behind ours: hyperp (those of the question).")
    ] = "",
    method: MethodName = "linex",
) -> None:
    """Draw loss against learning rate, the optimum against tokens, and loss against FLOPs.

    Example: sweeper plot quickstart --format png,svg
    """
    from sweeper.analysis import fit_question
    from sweeper.figures import FIGURES, plot_question, save_figure
    from sweeper.sources import open_source
    from sweeper.spec import Reference
    from sweeper.terminal.fit import print_figures
    from sweeper.typed import convert, did_you_mean

    asked = _asked(lr=lr, map_=map_, by=by, per=per, where=where, law=law, curve=curve)
    found = open_source(source, overrides or [], runs, asked)
    question = replace(found.question, figures=_names(figure)) if figure else found.question
    for name in question.figures:
        if name not in FIGURES:
            raise SweeperError(f"--figure {name!r}: no such figure; {did_you_mean(name, FIGURES)}")
    if reference:
        question = replace(question, reference=convert(Reference, reference, "--reference"))
    report = fit_question(found.table, question, method=_method(method), lr=lr, loss=loss)
    folder = out or (found.folder.figures if found.folder else Path("figures") / Path(source).stem)
    drawn = plot_question(found.table, question, report, loss=loss)
    for name in (name for name in question.figures if name not in drawn):
        typer.echo(f"no data for the figure {name!r}: left out", err=True)
    print_figures(path for name, made in drawn.items() for path in save_figure(made, folder, name, _names(formats)))


@app.command()
def merge(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the sweep on the other filesystem.")],
    name: Annotated[str, typer.Argument(help="The sweep, where its runs do not say which.")] = "",
    runs: RunsFolder = Path("runs"),
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Also bring the checkpoints of stopped runs, which then resume here.")
    ] = False,
    weights: Annotated[bool, typer.Option("--weights", help="Also bring the final weights of finished runs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be brought; change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the runs of a sweep from another filesystem's folder into ours; a result that we have stays.

    Example: sweeper merge /mnt/other/runs/quickstart --dry-run
    """
    from sweeper.merge import merge_runs, open_elsewhere
    from sweeper.records import SweepFolder
    from sweeper.slurm import ask_queue
    from sweeper.terminal.merge import print_merge
    from sweeper.typed import plain

    there, sweep = open_elsewhere(folder, name)
    done = merge_runs(
        there, SweepFolder(runs, sweep), queue=ask_queue(), checkpoints=checkpoints, weights=weights, dry_run=dry_run
    )
    if as_json:
        typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, "counts": done.counts, **plain(done)}))
    else:
        print_merge(done)


@data_app.command()
def prepare(
    source: Annotated[
        str, typer.Argument(help="python_source, a txt, jsonl or parquet file or glob, or hf:PATH as data=hf reads it.")
    ],
    folder: Annotated[Path, typer.Argument(help="New folder for the shards.")],
    tokenizer: Annotated[str, typer.Option(help="'bytes', or the path of a tokenizers JSON file.")] = "bytes",
    column: Annotated[str, typer.Option(help="Field or column that holds the text.")] = "text",
    validation: Annotated[float, typer.Option(help="Share of the documents that is held out.")] = 0.05,
    shard_tokens: Annotated[float, typer.Option(help="Tokens of a shard.")] = 100e6,
    subset: Annotated[str, typer.Option(help="Configuration of a dataset that has several (hf).")] = "",
    split: Annotated[str, typer.Option(help="Split of a dataset (hf).")] = "train",
    revision: Annotated[str, typer.Option(help="Commit of a dataset on the hub (hf).")] = "",
) -> None:
    """Tokenise text once and write it as memory-mapped shards (the llm.c format), for data=shards.

    Example: sweeper data prepare 'corpus/*.jsonl' shards/corpus --tokenizer tokenizer.json
    """
    from model.config import DataConfig
    from model.corpus import prepare_shards
    from model.corpus.encoding import read_encoder

    named = source == "python_source"
    try:
        config = DataConfig(
            source="python_source" if named else "hf" if source.startswith("hf:") else "text",
            path="" if named else source.removeprefix("hf:"),
            subset=subset,
            split=split,
            revision=revision,
            tokenizer=tokenizer,
            column=column,
            validation=validation,
        )
        paths = prepare_shards(config, folder, round(shard_tokens))
        vocab = read_encoder(config).vocab
    except ValueError as error:
        raise DataError(str(error)) from error
    typer.echo(f"{len(paths)} shards in {folder}")
    typer.echo(f"next: sweeper plan quickstart data=shards data.path={folder.resolve()} model.vocab={vocab}")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(sweeper.__version__)
