"""The command line: each command reads its arguments, calls the library and prints."""

import gc
import importlib.util
import os
import sys
from pathlib import Path

import typer

import sweeper
from sweeper.cli.data import prepare
from sweeper.cli.doctor import doctor
from sweeper.cli.exporting import export
from sweeper.cli.fitting import fit, predict
from sweeper.cli.importing import import_
from sweeper.cli.plotting import plot
from sweeper.cli.reporting import report
from sweeper.cli.running import calibrate, collect, launch, merge, plan
from sweeper.cli.steering import cancel, exclude, logs, retry, status, tend, watch, why
from sweeper.cli.suggesting import suggest
from sweeper.errors import SweeperError

app = typer.Typer(
    name="sweeper",
    help="Learning-rate sweeps for language-model pre-training: plan, launch, collect, fit, predict, plot.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COLLECT_AFTER = 50_000
"""New objects between two looks for garbage in circles: at Python's 700, planning 100,000 cells spends a fifth of its
time looking through values that are still in use."""

data_app = typer.Typer(help="Prepare token files.", no_args_is_help=True)
app.add_typer(data_app, name="data", rich_help_panel="More")


def main() -> None:
    """Run the command line; what a user can mend is one sentence on stderr and its exit code."""
    code: str | int | None = 0
    closed = False
    gc.set_threshold(COLLECT_AFTER)
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


def version() -> None:
    """Print the version."""
    typer.echo(sweeper.__version__)


PANELS = {
    "Run": (plan, calibrate, launch, status, watch, collect),
    "See and steer": (logs, why, cancel, retry, exclude, tend, merge),
    "Conclude": (fit, predict, suggest, plot, report, export),
    "More": (doctor, version),
}
for _panel, _commands in PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
app.command("import", rich_help_panel="Conclude")(import_)
data_app.command()(prepare)
