"""A frozen copy of the code beside the results, so that editing the checkout changes no queued job."""

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import sweeper
from sweeper.errors import DiskError, LaunchError
from sweeper.records import write_json

PACKAGES = ("sweeper", "model", "kernels")
ROOT = Path(sweeper.__file__).resolve().parent.parent


def take_snapshot(code: Path) -> str:
    """Copy the Python files of our packages to `code/<hash>`, unless they are there whole, and return the hash."""
    partial = code / f".{uuid.uuid4().hex[:8]}.partial"
    try:
        for path in _sources(ROOT):
            copy = partial / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        digest = hash_code(partial)  # of the copy: an edit meanwhile does no harm
        target = code / digest
        if target.exists() and hash_code(target) != digest:  # damaged, by a power cut say
            target.rename(partial.with_suffix(".damaged"))
        if not target.exists():
            write_json(partial / "snapshot.json", {"hash": digest, **git_state(ROOT)})
            partial.rename(target)
    except OSError as error:
        raise DiskError(
            f"{code}: the code cannot be copied ({error.strerror}); free space or choose another --runs"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(partial.with_suffix(".damaged"), ignore_errors=True)
    return digest


def verify_snapshot(code: Path, digest: str) -> None:
    """Assert that this process runs the very code that was launched.

    Raises:
        LaunchError: A package comes from elsewhere, or a file was changed.
    """
    expected = (code / digest).resolve()
    if expected != ROOT:
        raise LaunchError(
            f"the worker imported sweeper from {ROOT} instead of {expected}; check PYTHONPATH on the node"
        )
    found = hash_code(ROOT)
    if found != digest:
        raise LaunchError(f"{expected}: the frozen code was changed (its hash is {found}); launch the sweep again")


def hash_code(root: Path) -> str:
    """16 hexadecimal digits over the names and contents of our Python files."""
    digest = hashlib.sha256()
    for path in _sources(root):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _sources(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((root / package).rglob("*.py"))


def git_state(root: Path) -> dict[str, str | bool]:
    """Commit and cleanliness of the checkout that the code comes from, and the installed version."""
    try:
        version = importlib.metadata.version("sweeper-lm")
    except importlib.metadata.PackageNotFoundError:
        version = sweeper.__version__
    commit = _git(root, "rev-parse", "HEAD")
    dirty = bool(_git(root, "status", "--porcelain", "--", *PACKAGES))
    return {"version": version, "git_commit": commit, "git_dirty": dirty}


def _git(root: Path, *arguments: str) -> str:
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def read_snapshot(code: Path, digest: str) -> dict[str, str | bool]:
    """What the launcher knew of the code: version, commit, cleanliness."""
    found: dict[str, str | bool] = json.loads((code / digest / "snapshot.json").read_text())
    return found
