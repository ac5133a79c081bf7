"""Learning-rate sweeps for language-model pre-training: plan, launch, collect, fit, predict, plot."""

__version__ = "0.1.0"
