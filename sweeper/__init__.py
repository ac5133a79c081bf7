"""Learning-rate sweeps for language-model pre-training: plan, launch, collect, fit, predict, plot.

Everything that the commands do is a few calls; TOUR.md walks through them. The public names are those of `sweeper.api`,
which is imported when one of them is used: `import sweeper` alone is light.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweeper.api import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # `from sweeper import table` asks here first: a module of that name is none of the library's names.
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is None:
        try:
            return getattr(importlib.import_module("sweeper.api"), name)
        except AttributeError:
            pass
    raise AttributeError(f"module 'sweeper' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *importlib.import_module("sweeper.api").__all__})
