"""Sweep files, groups and overrides to one typed `Sweep`: the only package that knows Hydra and OmegaConf."""

from sweeper.config.cluster import load_cluster
from sweeper.config.load import load_sweep
from sweeper.config.locate import shipped, sweep_names

__all__ = ["load_cluster", "load_sweep", "shipped", "sweep_names"]
