"""A cluster's profile by itself, composed as a sweep would compose it."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from sweeper.config.compose import composer
from sweeper.config.overrides import parse_overrides
from sweeper.errors import ConfigError
from sweeper.spec import Cluster
from sweeper.typed import build


def load_cluster(overrides: Sequence[str] = ()) -> Cluster:
    """The profile that a sweep would have with these overrides: `cluster=h100`, `cluster.slurm.partition=gpu`.

    A first word without an equals sign is the profile's name. Without any it is `local`.

    Raises:
        ConfigError: An unknown profile or setting, or one that is not the cluster's.
    """
    texts = [f"cluster={text}" if i == 0 and text.isidentifier() else text for i, text in enumerate(overrides)]
    given = parse_overrides(texts)
    for override in given:
        if override.path != "cluster" and not override.path.startswith("cluster."):
            raise ConfigError(f"{override.place}: not a setting of a cluster; leave it out here")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "cluster_alone.yaml"  # Hydra composes files
        file.write_text("defaults:\n  - cluster: local\n  - _self_\n")
        with composer(file) as composed:
            plain = composed(())  # so that the composer knows which groups are chosen already
            source = composed(given) if given else plain
    return build(Cluster, source.values.get("cluster") or {}, "cluster", place=source.place)
