"""Learning-rate sweeps for language-model pre-training: plan, launch, collect, fit, predict, plot.

Everything that the commands do is a few calls; TOUR.md walks through them. The public names stand in `__init__.pyi`;
each is found on its first use, so that `import sweeper` is light.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
