"""Colours are measured as CIE Lab (D65, sRGB), colour blindness by Machado, Oliveira and Fernandes (2009)."""

from itertools import combinations, pairwise

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.figures.heat import COLOURS
from sweeper.figures.style import ARM_COLOURS, Looks, drawing, sequence, text_width, thinned, wrapped

TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
PROTANOPIA = np.array(
    [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
)
NORMAL = np.eye(3)


def lab(colour, sight=NORMAL):
    srgb = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(sight @ linear, 0, 1) / TO_XYZ.sum(axis=1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_neighbouring_arms_differ_in_a_grey_print():
    assert min(abs(lab(a)[0] - lab(b)[0]) for a, b in pairwise(ARM_COLOURS)) > 19


def test_the_first_three_arms_all_differ_in_a_grey_print():
    assert min(abs(lab(a)[0] - lab(b)[0]) for a, b in combinations(ARM_COLOURS[:3], 2)) > 19


@pytest.mark.parametrize("sight", [NORMAL, DEUTERANOPIA, PROTANOPIA], ids=["normal", "deuteranopia", "protanopia"])
def test_any_two_arms_differ_for_every_reader(sight):
    assert min(np.linalg.norm(lab(a, sight) - lab(b, sight)) for a, b in combinations(ARM_COLOURS, 2)) > 15


@pytest.mark.parametrize("sight", [NORMAL, DEUTERANOPIA, PROTANOPIA], ids=["normal", "deuteranopia", "protanopia"])
def test_groups_run_from_dark_to_light_for_every_reader(sight):
    steps = [lab(b, sight)[0] - lab(a, sight)[0] for a, b in pairwise(sequence(7))]
    assert min(steps) > 8


def test_heat_runs_evenly_from_light_to_dark():
    lightness = [lab(colour)[0] for colour in mpl.colormaps[COLOURS](np.linspace(0, 1, 20))]
    steps = -np.diff(lightness)
    assert (steps.min() > 3, steps.max() < 5) == (True, True)


def test_no_colour_vanishes_on_white():
    assert max(lab(colour)[0] for colour in (*ARM_COLOURS, *sequence(5))) < 80


def test_more_series_than_colours_still_differ_by_marker_and_line():
    looks = Looks(arms=tuple({"arm": str(i)} for i in range(14)))
    assert len({looks.arm({"arm": str(i)}) for i in range(14)}) == 14


@given(st.integers(1, 300), st.integers(2, 40))
def test_thinned_items_keep_their_order_and_both_ends(count, most):
    kept = thinned(range(count), most)
    assert (kept[0], kept[-1], len(kept)) == (0, count - 1, min(count, most))
    assert list(kept) == sorted(set(kept))


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["a", "word", "$x^{2} + y$", "muonh", "−0.32"]), min_size=1, max_size=12))
def test_wrapping_loses_nothing_and_breaks_no_mathematics(parts):
    with drawing("paper"):
        lines = wrapped(" ".join(parts), room=0.8).splitlines()
        assert " ".join(lines) == " ".join(parts)
        assert all(line.count("$") % 2 == 0 for line in lines)
        assert all(text_width(line) <= 0.8 or " " not in line or line.startswith("$") for line in lines)
