"""Commands about data."""

from pathlib import Path
from typing import Annotated

import typer

from sweeper.errors import DataError


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
