"""Options that say what is asked of a table: declared once, gathered for each command that asks."""

import functools
import inspect
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sweeper.cli.arguments import names
from sweeper.errors import SweeperError

if TYPE_CHECKING:
    from sweeper.sources import Asked
    from sweeper.spec import Reference

Options = dict[str, str | Sequence[str] | bool | None]
"""Flags with what was typed behind them; empty values were not."""
OPTIONS: Mapping[str, tuple[Any, Any, str, str]] = {
    "lr": (str, "", "--lr", "Column of the learning rate (lr_peak, else lr)."),
    "loss": (str, "loss", "--loss", "Column of the loss."),
    "map_": (
        list[str] | None,
        None,
        "--map",
        "Our name for a column of the file or for what it gives: tokens=D*1e9. May be repeated.",
    ),
    "pattern": (
        list[str] | None,
        None,
        "--pattern",
        "A column of text and a regular expression; its named groups become columns: "
        "'run_name=lr(?P<lr>[0-9.e-]+)'. May be repeated.",
    ),
    "by": (str, "", "--by", "Columns, by commas, whose every combination has one optimum."),
    "per": (str, "", "--per", "Columns, by commas, that separate laws and curves, such as arm."),
    "where": (str, "", "--where", "Rows to use: \"depth == 16 and state != 'failed'\"."),
    "law": (list[str] | None, None, "--law", 'A power law: "lr_peak ~ tokens". May be repeated.'),
    "curve": (list[str] | None, None, "--curve", 'A loss curve: "loss ~ flops". May be repeated.'),
    "surface": (
        list[str] | None,
        None,
        "--surface",
        'A loss over size and data: "loss ~ params + tokens". May be repeated.',
    ),
    "joint": (str, "", "--joint", "Columns, by commas, along which loss and rate are fitted at once: tokens."),
    "irreducible": (bool, False, "--irreducible", "Laws a·x^b + c as well, where leave-one-out prefers them."),
    "sensitivity": (bool, False, "--sensitivity", "How far optima move with fewer learning rates (HyperP E11)."),
    "baseline": (str, "", "--baseline", "The arm that leverage and losses are measured against."),
    "reference": (str, "", "--reference", "Published values to compare with: hyperp (those of the question)."),
}
"""Type, default, flag and help of each, by the name of its parameter."""

COLUMNS = ("lr", "loss", "map_", "pattern", "by", "per", "where")
"""Which columns, groups and rows."""
FITS = (*COLUMNS, "law", "curve", "surface", "joint", "irreducible", "baseline", "reference")
"""And what is fitted to them."""


def asks(*options: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with these options beside its own; their values reach it together, as its argument `asked`."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def gathered(**given: Any) -> None:
            command(asked=asked_of(**{name: given.pop(name) for name in options}), **given)

        signature = inspect.signature(command)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "asked"]
        shared = [_parameter(name, *OPTIONS[name]) for name in options]
        gathered.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
        gathered.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
        return gathered

    return decorated


def _parameter(name: str, kind: Any, default: Any, flag: str, text: str) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(flag, help=text, rich_help_panel="The question")]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def asked_of(
    *,
    lr: str = "",
    map_: list[str] | None = None,
    by: str = "",
    per: str = "",
    where: str = "",
    law: list[str] | None = None,
    curve: list[str] | None = None,
    baseline: str = "",
    loss: str = "loss",
    pattern: list[str] | None = None,
    surface: list[str] | None = None,
    joint: str = "",
    irreducible: bool = False,
    sensitivity: bool = False,
    reference: str = "",
) -> "Asked":
    """The options about columns and fits as the library takes them."""
    from sweeper.laws.power import REFERENCES
    from sweeper.sources import Asked
    from sweeper.typed import did_you_mean

    if reference and reference not in REFERENCES:
        raise SweeperError(f"--reference: got {reference!r}; {did_you_mean(reference, REFERENCES)}")

    return Asked(
        lr=lr,
        loss=loss,
        mapping=tuple(map_ or ()),
        patterns=tuple(pattern or ()),
        by=names(by),
        per=names(per),
        laws=tuple(law or ()),
        curves=tuple(curve or ()),
        surfaces=tuple(surface or ()),
        joint=names(joint),
        irreducible=irreducible,
        sensitivity=sensitivity,
        baseline=baseline,
        reference=cast("Reference", reference),
        where=where,
    )


def typed_options(asked: "Asked") -> Options:
    """The options of a question that every command takes, as they were typed."""
    return {
        "--lr": asked.lr,
        "--loss": asked.loss if asked.loss != "loss" else "",
        "--map": asked.mapping,
        "--pattern": asked.patterns,
        "--by": ",".join(asked.by),
        "--per": ",".join(asked.per),
        "--law": asked.laws,
        "--curve": asked.curves,
        "--surface": asked.surfaces,
        "--joint": ",".join(asked.joint),
        "--irreducible": asked.irreducible,
        "--baseline": asked.baseline,
        "--reference": asked.reference,
        "--where": asked.where,
    }


def words_of(given: Options) -> str:
    """Options as they were typed, each with a space before it; those that were not are left out."""
    words: list[str] = []
    for name, values in given.items():
        if values is True:
            words.append(name)
        else:
            each = [values] if isinstance(values, str) else values or []
            words += [word for value in each if value for word in (name, value)]
    return f" {shlex.join(words)}" if words else ""
