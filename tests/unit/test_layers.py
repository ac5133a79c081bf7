"""The layers of the architecture, read from the import statements of every module."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ROWS = (
    "errors files laws expressions typed watchdog model.config model.parameters model.shape model.fusing model.devices",
    "spec columns slurm records status retries fits model.corpus snapshot",
    "config grid arguments plan calibration loads table suggestions series",
    "scheduler worker recorder worker_entry supervisor command launch submission tend keeper sources merge doctor "
    "overview selection explanation logs steering exporting calibrating terminal figures analysis report",
    "cli api",
)
"""From the bottom: a module imports only from its own row and the rows below."""

ROW = {name: row for row, names in enumerate(ROWS) for name in names.split()}

LIGHT = ("model.config", "model.parameters", "model.shape", "model.corpus", "model.devices", "model.fusing")
"""What a login node without torch imports of `model`."""

ONLY_IN = {
    "hydra": "config",
    "omegaconf": "config",
    "yaml": "config",
    "submitit": "scheduler",
    "pandas": "table",
    "matplotlib": "figures",
    "torch": "worker",
    "typer": "cli",
}
"""The one part of `sweeper` that may import a library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One name that a module imports, wherever in its text."""

    module: str
    """Dotted name of the importing module."""
    name: str
    """Dotted name of what it imports."""
    line: int

    def __str__(self) -> str:
        return f"{self.module} imports {self.name} (line {self.line})"


def modules(package: str) -> tuple[str, ...]:
    paths = sorted((ROOT / package).rglob("*.py"))
    return tuple(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths)


@cache
def imports(module: str) -> tuple[Import, ...]:
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return tuple(
        Import(module=module, name=name, line=line) for name, line in imported_names(ast.parse(path.read_text()))
    )


def imported_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Absolute dotted names; `from sweeper import records` counts as `sweeper.records`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that a reader and this test see where they go"
            ours = node.module in ("sweeper", "model", "kernels")
            yield from (
                (f"{node.module}.{alias.name}" if ours else str(node.module), node.lineno) for alias in node.names
            )


def of(package: str) -> tuple[Import, ...]:
    return tuple(found for module in modules(package) for found in imports(module))


def part(name: str) -> str:
    """The entry of the table that a dotted name belongs to: `fits` for `sweeper.fits.optimum`, else the module."""
    package, _, rest = name.partition(".")
    first = rest.partition(".")[0]
    return first if package == "sweeper" else f"{package}.{first}"


def library(name: str) -> str:
    return name.partition(".")[0]


def test_every_module_of_sweeper_has_a_row():
    unknown = {part(module) for module in modules("sweeper") if module != "sweeper"} - set(ROW)
    assert not unknown, f"{sorted(unknown)} stand in no row; add them to ROWS, as low as their imports allow"


def test_every_row_names_what_exists():
    existing = {part(module) for module in (*modules("sweeper"), *modules("model"))}
    assert set(ROW) - existing == set()


def test_imports_point_down_the_layers():
    upward = [
        str(found)
        for found in of("sweeper")
        if found.module != "sweeper" and part(found.name) in ROW and ROW[part(found.name)] > ROW[part(found.module)]
    ]
    assert upward == []


WITH_WEIGHTS = ("worker", "exporting", "calibrating")
"""What handles weights, and needs torch for it."""


def test_only_what_handles_weights_imports_the_training_code():
    heavy = [
        str(found)
        for found in of("sweeper")
        if library(found.name) in ("model", "kernels")
        and part(found.name) not in LIGHT
        and part(found.module) not in WITH_WEIGHTS
    ]
    assert heavy == []


@pytest.mark.parametrize(("name", "home"), ONLY_IN.items())
def test_one_part_alone_imports_the_library(name, home):
    strangers = [str(found) for found in of("sweeper") if library(found.name) == name and part(found.module) != home]
    assert strangers == []


def test_light_modules_import_only_light_modules_and_no_torch():
    found = [found for found in of("model") if part(found.module) in LIGHT]
    assert [str(f) for f in found if library(f.name) in ("torch", "kernels", "sweeper")] == []
    assert [str(f) for f in found if library(f.name) == "model" and part(f.name) not in LIGHT] == []


def test_model_knows_nothing_of_sweeps():
    assert [
        str(f) for f in of("model") if library(f.name) in ("sweeper", *ONLY_IN) and library(f.name) != "torch"
    ] == []


def test_kernels_know_only_torch_and_triton():
    allowed = {"torch", "triton", "kernels", *sys.stdlib_module_names}
    assert [str(f) for f in of("kernels") if library(f.name) not in allowed] == []


def test_laws_need_nothing_but_numbers():
    allowed = {"numpy", "sweeper", "model", *sys.stdlib_module_names}
    assert [
        str(f) for m in modules("sweeper") if part(m) == "laws" for f in imports(m) if library(f.name) not in allowed
    ] == []


def test_the_packages_hold_no_code_that_runs_when_they_are_imported():
    for package in ("model", "kernels"):
        assert imports(package) == ()
