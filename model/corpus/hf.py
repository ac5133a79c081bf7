"""Datasets of the Hugging Face hub or of local files, streamed; alone imports datasets and huggingface_hub."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from glob import has_magic
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from model.config import DataConfig, check
from model.corpus.files import absolute, find_files, reading
from model.corpus.places import State
from model.corpus.text import Document

Reached = tuple[Document, Callable[[], State]]
"""A document, and where the pass stands after it; to be asked before the next document is taken."""

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
SUFFIXES = tuple(
    f".{kind}{packed}" for kind in ("jsonl", "json", "parquet", "csv", "txt", "arrow") for packed in ("", ".gz", ".zst")
)
SAMPLED_BLOCKS = 16
BLOCK_BYTES = 1 << 16


def is_on_hub(config: DataConfig) -> bool:
    """Whether `data.path` names a dataset of the hub: `owner/name`, with a revision or where no file has the name."""
    named = config.source == "hf" and HUB_NAME.fullmatch(config.path) is not None
    return named and (bool(config.revision) or not Path(absolute(config.path)).exists())


def index_folder(config: DataConfig, fingerprint: str) -> Path:
    """Where readers of this content leave what a later one finds its place with: below `HF_HOME`, as all of its caches.

    Versions of the packages are part of its name: another may number tokens, or write its state, in another way.
    """
    _check_installed()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = Path(os.environ.get("HF_HOME") or f"{cache}/huggingface").expanduser()
    packages = ("datasets",) if config.tokenizer == "bytes" else ("datasets", "tokenizers")
    versions = "-".join(f"{name}-{version(name)}" for name in packages)
    return home / "sweeper" / f"{fingerprint}-{config.validation:g}-{versions}"


def read_stream(config: DataConfig, state: State | None = None) -> Iterator[Reached]:
    """The documents of the dataset in its own order, from its start or from where `state` was taken.

    `IterableDataset.state_dict` resumes exactly, except behind a shuffle buffer, whose content it loses (documentation
    of datasets, "Save a dataset checkpoint and resume iteration"): none is used.

    A row without a text (null) is a document of nothing.

    Raises:
        ValueError: A dataset that cannot be opened or read, or rows without text in `data.column`.
    """
    builder = _open(config)
    with _telling(config):
        rows = builder.as_streaming_dataset(split=_split(config))
        if rows.column_names is not None:
            rows = rows.select_columns([config.column])
        if state is not None:
            rows.load_state_dict(state)
        for row in rows:
            check(
                config.column in row,
                f"data.path {config.path} has no column {config.column!r}, only {', '.join(row)}; set data.column",
            )
            value = row[config.column]
            check(
                value is None or isinstance(value, str),
                f"data.path {config.path} has no text in its column {config.column!r}, got {value!r:.40}; "
                "set data.column to one that holds text",
            )
            yield Document(content=(value or "").encode(errors="replace")), rows.state_dict


def hash_dataset(digest: "hashlib._Hash", config: DataConfig) -> None:
    """Add what decides the documents: of a dataset on the hub its name and commit, which no network is asked for.

    Of local files it is the kind, the sizes and 16 blocks of 64 KiB of each (first, last, evenly spaced), in the order
    in which they are read, not their names: a change between those blocks goes unnoticed.

    Raises:
        ValueError: A dataset that is missing, or one on the hub without its commit in `data.revision`.
    """
    _check_installed()
    if is_on_hub(config):
        _check_commit(config)
        digest.update(repr((config.path, config.subset, config.split, config.revision)).encode())
        return
    with _telling(config):
        builder = _builder(config)
    digest.update(builder.name.encode())
    for name in (builder.config.data_files or {}).get(_split(config), ()):
        with reading(Path(name)), Path(name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f" {size} ".encode())
            if size <= SAMPLED_BLOCKS * BLOCK_BYTES:
                digest.update(file.read())
                continue
            for block in range(SAMPLED_BLOCKS):
                file.seek(block * (size - BLOCK_BYTES) // (SAMPLED_BLOCKS - 1))
                digest.update(file.read(BLOCK_BYTES))


@lru_cache(maxsize=4)  # resolving the files of a dataset on the hub takes seconds
def _open(config: DataConfig) -> Any:
    """The `DatasetBuilder` of a dataset that has the split and, as far as it can tell yet, the column."""
    _check_installed()
    if is_on_hub(config):
        _check_commit(config)
    with _telling(config):
        builder = _builder(config)
        splits = builder.config.data_files
    check(
        not splits or _split(config) in splits,
        f"data.path {config.path} has no split {config.split!r}, only {', '.join(map(str, splits or ()))}; "
        "set data.split",
    )
    with _telling(config):
        names = builder.as_streaming_dataset(split=_split(config)).column_names
    check(
        names is None or config.column in names,  # plain text says it with its first row
        f"data.path {config.path} has no column {config.column!r}, only {', '.join(names or ())}; set data.column",
    )
    if builder.name == "parquet":  # reads, or downloads, no other column
        builder.config.columns = [config.column]
    return builder


def _builder(config: DataConfig) -> Any:
    """The `DatasetBuilder` that knows the files of each split; code that comes with a dataset is never run."""
    import datasets

    datasets.disable_progress_bars()
    if is_on_hub(config):
        return datasets.load_dataset_builder(config.path, config.subset or None, revision=config.revision)
    path = Path(absolute(config.path))
    check(
        path.exists() or has_magic(config.path),
        f"data.path {config.path} does not exist; check the path (a dataset of the hub reads owner/name)",
    )
    if path.is_dir():
        return datasets.load_dataset_builder(str(path), config.subset or None)
    files = [str(each) for each in find_files(config, SUFFIXES)]
    return datasets.load_dataset_builder(str(Path(files[0]).parent), data_files={"train": files})


def _split(config: DataConfig) -> str:
    """Files that are named one by one or by a glob are one split, whatever its name."""
    named = is_on_hub(config) or Path(absolute(config.path)).is_dir()
    return config.split if named else "train"


def _check_installed() -> None:
    check(
        find_spec("datasets") is not None,
        "data=hf needs the package datasets; install it with pip install 'sweeper-lm[data]'",
    )


def _check_commit(config: DataConfig) -> None:
    """Refuse a branch or a tag: what it names today may differ tomorrow, and so would the runs."""
    if COMMIT.fullmatch(config.revision):
        return
    what = f"data.path {config.path} is neither a file or folder here nor pinned as a dataset of the hub"
    try:
        commit = find_commit(config.path, config.revision)
    except LookupError:
        raise ValueError(
            f"{what}, where no such dataset{' or revision' * bool(config.revision)} is known; "
            "check data.path and data.revision (a private one needs HF_TOKEN)"
        ) from None
    except OSError:
        raise ValueError(
            f"{what}, which cannot be reached; check the path, or set data.revision to the commit of the dataset "
            f"(40 hexadecimal digits, the history of huggingface.co/datasets/{config.path} shows them)"
        ) from None
    raise ValueError(f"{what}; set data.revision={commit}, its {config.revision or 'main branch'} of today")


def find_commit(name: str, revision: str) -> str:
    """The commit that `revision` (empty: the main branch) of a dataset on the hub is today; asks the network.

    Raises:
        LookupError: The hub knows no such dataset or revision.
        OSError: The hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = HfApi().dataset_info(name, revision=revision or None, timeout=10)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise LookupError(name) from error
    except Exception as error:  # of whatever package carries its requests
        raise OSError(str(error)) from error
    return str(found.sha)


@contextmanager
def _telling(config: DataConfig) -> Iterator[None]:
    """Tell a failure of the packages, which raise every kind, as a ValueError of one sentence."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith("data.path "):
            raise
        lines = str(error).splitlines() or [type(error).__name__]
        reason = lines[0].rstrip(".")
        if reason[1:2].islower():
            reason = reason[0].lower() + reason[1:]
        raise ValueError(
            f"data.path {config.path} cannot be read as a dataset ({reason}); "
            + "check data.path, data.subset and data.split"
            + (", or prepare shards where the hub can be reached" if is_on_hub(config) else "")
        ) from error
