"""From a sweep to its runs: axes, zips and unions laid out, derived values completed, constraints kept; pure."""

from sweeper.grid.layout import Expansion, at_rate, expand, lay_out

__all__ = ["Expansion", "at_rate", "expand", "lay_out"]
