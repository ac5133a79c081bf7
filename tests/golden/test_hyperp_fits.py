"""The published fits of HyperP (arXiv 2603.28743), from the numbers of its tables."""

import math

import numpy as np
import pytest

from sweeper.fits.loss_curve import fit_leverage, fit_loss_curve
from sweeper.fits.losses import make_losses
from sweeper.fits.optimum import fit_lr_optima
from sweeper.fits.power_law import fit_power_law

TABLE_4 = [  # tokens, optimal learning rate
    (10.4e9, 0.01515),
    (20.8e9, 0.01208),
    (41.6e9, 0.00958),
    (83.2e9, 0.00772),
    (166.4e9, 0.00635),
]
TABLE_8 = [(2**18, 0.00504), (2**19, 0.00706), (2**20, 0.01056), (2**21, 0.01562)]  # batch tokens, rate

TABLES_5_6_LR = [0.002, 0.004, 0.006, 0.008, 0.010, 0.012, 0.014, 0.016, 0.018, 0.020]
TABLE_5 = {  # loss by depth, without Depth-μP
    8: [2.684, 2.569, 2.521, 2.498, 2.485, 2.474, 2.470, 2.469, 2.473, 2.492],
    12: [2.523, 2.405, 2.355, 2.328, 2.315, 2.308, 2.309, 2.319, 2.351, 2.386],
    16: [2.426, 2.307, 2.256, 2.230, 2.220, 2.225, 2.251, 2.288, 2.299, 2.315],
    20: [2.354, 2.235, 2.189, 2.166, 2.169, 2.191, 2.218, 2.235, 2.246, 2.264],
    24: [2.300, 2.183, 2.140, 2.126, 2.142, 2.165, 2.184, 2.196, 2.212, 2.221],
}
TABLE_6 = {  # loss by depth, with it
    8: [2.682, 2.568, 2.520, 2.496, 2.484, 2.476, 2.473, 2.474, 2.477, 2.479],
    12: [2.568, 2.437, 2.377, 2.347, 2.331, 2.319, 2.316, 2.315, 2.317, 2.321],
    16: [2.495, 2.359, 2.297, 2.264, 2.245, 2.235, 2.229, 2.225, 2.225, 2.234],
    20: [2.445, 2.309, 2.246, 2.211, 2.188, 2.177, 2.171, 2.169, 2.172, 2.188],
    24: [2.413, 2.272, 2.208, 2.172, 2.150, 2.137, 2.132, 2.132, 2.137, 2.152],
}
TABLE_12_FLOPS = np.array([2.1363e19, 1.4908e20, 6.5907e20, 2.1863e21, 5.9614e21])  # depth 8, 12, 16, 20, 24
TABLE_12 = {
    "muon": np.array([2.4777, 2.2257, 2.0671, 1.9591, 1.8785]),
    "hyperp": np.array([2.4804, 2.2192, 2.0526, 1.9311, 1.8365]),
    "muonh": np.array([2.4845, 2.2099, 2.0500, 1.9558, 1.9015]),
}


def test_token_law_of_table_4_in_linear_space():
    tokens, lr = zip(*TABLE_4, strict=True)
    fit = fit_power_law(tokens, lr, space="linear")
    assert fit.a == pytest.approx(24.25, abs=0.01)
    assert fit.b == pytest.approx(-0.3200, abs=5e-5)
    assert fit.b_se == pytest.approx(0.0051, abs=5e-5)
    assert fit.loo_error == pytest.approx(0.0148, abs=5e-5)


def test_token_law_of_table_4_in_log_space():
    tokens, lr = zip(*TABLE_4, strict=True)
    fit = fit_power_law(tokens, lr, space="log")
    assert fit.b == pytest.approx(-0.3155, abs=5e-5)
    assert fit.b_se == pytest.approx(0.0059, abs=5e-5)


@pytest.mark.parametrize(("space", "b"), [("linear", 0.5577), ("log", 0.548)])
def test_batch_law_of_table_8(space, b):
    batch, lr = zip(*TABLE_8, strict=True)
    fit = fit_power_law(batch, lr, space=space)
    assert fit.b == pytest.approx(b, abs=5e-4 if space == "log" else 5e-5)
    if space == "linear":
        assert fit.a == pytest.approx(4.647e-6, abs=5e-10)


def depth_losses(table):
    depth = np.repeat(list(table), len(TABLES_5_6_LR))
    lr = np.tile(TABLES_5_6_LR, len(table))
    return make_losses(lr, np.concatenate(list(table.values())), covariates={"depth": depth})


def test_optima_of_table_6_are_vertices_of_parabolas():
    optima = fit_lr_optima(depth_losses(TABLE_6), by=("depth",), method="parabola")
    assert [optimum.status for optimum in optima] == ["ok"] * 5
    assert [optimum.lr for optimum in optima] == pytest.approx([0.0155, 0.0170, 0.0183, 0.0175, 0.0167], abs=5e-5)


def test_poor_parabolas_of_table_5_fall_back_to_the_grid_and_drift_with_depth():
    optima = fit_lr_optima(depth_losses(TABLE_5), by=("depth",), method="parabola")
    assert [optimum.status for optimum in optima] == ["ok", "argmin", "argmin", "argmin", "argmin"]
    assert [optimum.lr for optimum in optima][1:] == [0.012, 0.010, 0.008, 0.008]
    observed = fit_lr_optima(depth_losses(TABLE_5), by=("depth",), method="argmin")
    law = fit_power_law([o.group["depth"] for o in observed], [o.lr for o in observed])
    assert law.b == pytest.approx(-0.67, abs=0.005)


@pytest.mark.parametrize(
    ("arm", "A", "b", "E"),
    [
        ("muon", 223.25, 0.11660, 1.23318),
        ("hyperp", 85.81, 0.08908, 0.85187),
        ("muonh", 6659, 0.20098, 1.61762),
    ],
)
def test_loss_curves_of_table_12(arm, A, b, E):
    fit = fit_loss_curve(TABLE_12_FLOPS, TABLE_12[arm])
    assert (fit.A, fit.b, fit.E) == (pytest.approx(A, rel=1e-3), pytest.approx(b, abs=1e-5), pytest.approx(E, abs=2e-5))


def leverage_of(arm):
    fits = {name: fit_loss_curve(TABLE_12_FLOPS, loss, per={"arm": name}) for name, loss in TABLE_12.items()}
    return fit_leverage(
        fits[arm],
        fits["muon"],
        new_points=(TABLE_12_FLOPS, TABLE_12[arm]),
        baseline_points=(TABLE_12_FLOPS, TABLE_12["muon"]),
    )


def test_leverage_of_table_13_inverts_the_new_fit():
    rows = leverage_of("hyperp")
    assert [row.value for row in rows] == pytest.approx([0.985, 1.038, 1.158, 1.351, 1.577], abs=5e-4)
    assert [row.value for row in leverage_of("muonh")] == pytest.approx([0.96, 1.19, 1.17, 0.99, 0.70], abs=5e-3)


def test_leverage_by_the_baseline_fit_reads_beyond_its_data_at_the_largest_budget():
    rows = leverage_of("hyperp")
    assert rows[-1].value_baseline_fit == pytest.approx(1.78, abs=5e-3)
    assert [row.extrapolated for row in rows] == [False, False, False, False, True]
    assert math.isclose(rows[-1].at, 5.9614e21)
