"""Hand jobs to this machine (`local`) or to SLURM (`arrays`); the only package that knows submitit."""
