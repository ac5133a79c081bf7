"""Where sweeps and configuration groups lie on the disk: with the user, else with this package."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from sweeper.errors import ConfigError
from sweeper.typed import did_you_mean


def shipped(kind: Literal["conf", "sweeps"]) -> Path:
    """The folder of configuration groups or sweeps that comes with this package.

    It stands inside `sweeper/` in a wheel, beside it in a clone.
    """
    sweeper = Path(__file__).resolve().parents[1]
    return sweeper / kind if (sweeper / kind).is_dir() else sweeper.parent / kind


def sweep_names() -> tuple[str, ...]:
    """Every sweep that `load_sweep` finds by name, sorted."""
    folders = (Path("sweeps"), shipped("sweeps"))
    return tuple(
        sorted({file.relative_to(root).with_suffix("").as_posix() for root in folders for file in root.rglob("*.yaml")})
    )


def find_sweep(name: str) -> tuple[Path, str]:
    """The file of a sweep and the name that it goes by, the same whether it is given as a path or by that name.

    Raises:
        ConfigError: There is none.
    """
    path = Path(name)
    if path.suffix == ".yaml":
        if not path.exists():
            raise ConfigError(f"no sweep file {name!r}; give the path of an existing one or the name of a sweep")
        file = _checked(path, name).resolve()
        return file, _name_of(file)
    roots = (Path("sweeps"), shipped("sweeps"))
    for root in roots:
        file = root / f"{name}.yaml"
        if name and not path.is_absolute() and ".." not in path.parts and file.exists():
            return _checked(file, shown(file)).resolve(), path.as_posix()
    for file in (path, *(root / f"{name}.yml" for root in roots)):
        if file.is_file():
            raise ConfigError(f"{file}: a sweep file ends in .yaml; {_renamed(file)}")
    if path.is_dir() and name not in ("", "."):
        raise ConfigError(f"{name}: a folder, not a sweep; name one of the files in it")
    raise ConfigError(f"no sweep {name!r} in ./sweeps or among those that ship; {did_you_mean(name, sweep_names())}")


def _name_of(file: Path) -> str:
    """What a file is called below the folder `sweeps` that it lies in; else its own name."""
    home = _home(file)
    return (file.relative_to(home) if home else Path(file.name)).with_suffix("").as_posix()


def _home(file: Path) -> Path | None:
    """The folder `sweeps` that a file lies in: that of the working directory, else the nearest."""
    here = Path("sweeps").resolve()
    return here if here in file.parents else next((folder for folder in file.parents if folder.name == "sweeps"), None)


def _renamed(file: Path) -> str:
    return "rename it" if file.suffix == ".yml" else "name one that does"


def _checked(file: Path, name: str) -> Path:
    """The file, if it holds text.

    Raises:
        ConfigError: A folder, an empty file, or bytes that are no text.
    """
    if file.is_dir():
        raise ConfigError(f"{name}: a folder, not a sweep file; remove it, or name a file")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror}); mend its permissions") from error
    if "\0" in text:
        raise ConfigError(f"{name}: not text (it holds NUL bytes); restore the sweep file")
    if not text.strip():
        raise ConfigError(f"{name}: the file is empty; write a sweep into it")
    return file


def shown(file: Path) -> str:
    """The path as a user would type it: relative when it lies below the working directory."""
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else str(file)


def conf_folders(file: Path | None = None) -> tuple[Path, ...]:
    """The folders of groups, first come, first served.

    Args:
        file: A sweep's, whose groups may also stand in a `conf` beside the folder `sweeps` that it lies in.
    """
    home = _home(file) if file else None
    folders = (Path("conf").resolve(), *([home.parent / "conf"] if home else []), shipped("conf"))
    return tuple(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def group_options(folders: Iterable[Path]) -> dict[str, set[str]]:
    """The options of each group: `{"model": {"tiny", …}, …}`."""
    groups: dict[str, set[str]] = {}
    for folder in folders:
        for option in folder.rglob("*.yaml"):
            group = option.parent.relative_to(folder).as_posix()
            if group != ".":
                groups.setdefault(group, set()).add(option.stem)
    return groups
