import subprocess
import sys

import pytest
import torch
from interpreted import interpreted
from torch import Tensor

from kernels import gram, reference
from kernels.reference import joint_radius, matrix_radius
from kernels.triton import found, newton_schulz, sphere_step


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nearly_of_rank_4(*shape):
    """Other singular values are 1e-4 of the largest: their squares are near the last digit of the Gram matrix."""
    left, right = random(*shape[:-1], 4, seed=1), random(*shape[:-2], 4, shape[-1], seed=2)
    return left @ right + 1e-4 * random(*shape)


MATRICES = {
    "wide": random(3, 16, 40),
    "tall": random(3, 40, 16),
    "square": random(2, 24, 24),
    "one row": random(2, 1, 20),
    "of experts": random(2, 3, 8, 33),
    "one matrix": random(64, 64),
    "nearly of rank 4": nearly_of_rank_4(2, 32, 64),
    "zero": torch.zeros(1, 16, 16, dtype=torch.float64),
}
STEPS = (1, 2, 5, 7)


@pytest.fixture(scope="module")
def orthogonal(tmp_path_factory):
    """What the interpreter makes of the matrices, by name, precision and steps."""
    keys = [(name, torch.float32, 5) for name in MATRICES]
    keys += [("wide", torch.float32, steps) for steps in STEPS if steps != 5]
    keys += [(name, torch.float16, 5) for name in ("wide", "tall", "nearly of rank 4")]
    calls = [
        ("kernels.triton.newton_schulz", "newton_schulz", (MATRICES[name].float(), steps, dtype))
        for name, dtype, steps in keys
    ]
    results = interpreted(tmp_path_factory.mktemp("newton_schulz"), calls)
    return {key: value for key, (_, value) in zip(keys, results, strict=True)}


def errors(orthogonal, name, dtype):
    """The largest of ours and of the reference's, against float64."""
    exact = reference.newton_schulz(MATRICES[name], 5, torch.float64)
    theirs = reference.newton_schulz(MATRICES[name].float(), 5, dtype)
    return [(made.double() - exact).abs().max().item() for made in (orthogonal[name, dtype, 5], theirs)]


@pytest.mark.parametrize("name", MATRICES)
def test_newton_schulz_agrees_with_the_reference(orthogonal, name):
    ours, theirs = orthogonal[name, torch.float32, 5], MATRICES[name].float()
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    error, of_reference = errors(orthogonal, name, torch.float32)
    assert error < max(3 * of_reference, 5e-6)


@pytest.mark.parametrize("steps", STEPS)
def test_newton_schulz_takes_as_many_steps_as_it_is_asked_for(orthogonal, steps):
    expected = reference.newton_schulz(MATRICES["wide"].float(), steps)
    torch.testing.assert_close(orthogonal["wide", torch.float32, steps], expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", ["wide", "tall", "nearly of rank 4"])
def test_in_float16_newton_schulz_errs_no_more_than_the_reference(orthogonal, name):
    ours, theirs = errors(orthogonal, name, torch.float16)
    assert 1e-6 < ours < theirs


@pytest.mark.parametrize(("shape", "dtype"), [((65, 80), torch.float32), ((8, 8), torch.float64)])
def test_what_is_too_large_or_too_exact_is_left_to_the_gram_matrix(shape, dtype):
    u = random(2, *shape).to(dtype)
    assert torch.equal(newton_schulz.newton_schulz(u, 5, dtype), gram.newton_schulz(u, 5, dtype))


RATES = (0.0, 0.01, 0.1, 0.5)
SHAPES = {"one block": (3, 12, 20), "blocks": (2, 64, 48), "experts": (2, 3, 8, 24), "odd": (3, 5, 7)}


def weights_and_directions(shape, dtype, straight):
    weights = random(*shape, seed=3).to(dtype)
    across = random(*shape, seed=4).to(dtype)
    return weights, (weights * -3 if straight == "ahead" else weights * 3 if straight == "back" else across)


def sphere_case(shape, dtype, rate, straight="no", joint=False):
    weights, direction = weights_and_directions(shape, dtype, straight)
    norm = joint_radius if joint else matrix_radius
    return weights, direction, rate, norm(weights.double()).float(), norm


SPHERES = {
    **{f"{name}, rate {r}": sphere_case(shape, torch.float32, r) for name, shape in SHAPES.items() for r in RATES},
    **{
        f"straight {way}, rate {rate}": sphere_case(SHAPES["blocks"], torch.float32, rate, way)
        for way in ("ahead", "back")
        for rate in RATES
    },
    "experts on one sphere": sphere_case(SHAPES["experts"], torch.float32, 0.05, joint=True),
    "rates of members": sphere_case(SHAPES["experts"], torch.float32, torch.tensor([0.1, 0.02, 0.0]).view(3, 1, 1)),
    "a rate on the device": sphere_case(SHAPES["one block"], torch.float32, torch.tensor(0.1)),
    "straight to nothing": sphere_case(SHAPES["blocks"], torch.float32, 1.0, "back"),
    "half precision": sphere_case(SHAPES["blocks"], torch.float16, 0.1),
}


APART = ("half precision", "straight to nothing")
"""Cases with tests of their own."""


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """The weights of each case after the step."""
    calls = [
        ("kernels.triton.sphere_step", "sphere_step_", ([w.clone() for w in weights], direction, rate, radius))
        for weights, direction, rate, radius, _ in SPHERES.values()
    ]
    results = interpreted(tmp_path_factory.mktemp("sphere_step"), calls)
    return {name: torch.stack(arguments[0]) for name, (arguments, _) in zip(SPHERES, results, strict=True)}


def exact(name) -> Tensor:
    weights, direction, rate, radius, norm = SPHERES[name]
    return reference.sphere_step(weights.double(), direction.double(), rate, radius.double(), norm)


@pytest.mark.parametrize("name", [name for name in SPHERES if name not in APART])
def test_the_step_on_the_sphere_agrees_with_the_reference(moved, name):
    largest = SPHERES[name][0].abs().max().item()
    torch.testing.assert_close(moved[name].double(), exact(name), rtol=0, atol=1e-6 * largest)


def test_weights_in_half_precision_are_rounded_once(moved):
    expected = exact("half precision").half()
    # float32 before it may fall on the other side of a tie
    torch.testing.assert_close(moved["half precision"], expected, rtol=2**-10, atol=0)
    assert (moved["half precision"] == expected).double().mean() > 0.99


@pytest.mark.parametrize("name", [name for name in SPHERES if name not in APART])
def test_a_step_of_up_to_half_the_radius_keeps_the_norm(moved, name):
    *_, radius, norm = SPHERES[name]
    torch.testing.assert_close(norm(moved[name].double()), radius.double(), rtol=1e-6, atol=0)


def test_a_step_that_leaves_nothing_of_a_matrix_throws_no_weight_outwards(moved):
    *_, radius, norm = SPHERES["straight to nothing"]
    assert (norm(moved["straight to nothing"]) <= radius).all()


def test_weights_that_cannot_be_moved_in_place_are_known():
    whole = torch.zeros(8, 8)
    assert sphere_step.takes([whole])
    assert not sphere_step.takes([whole, whole.mT[:, 1:]])
    assert not sphere_step.takes([whole.flatten()[1:]])
    assert not sphere_step.takes([whole.double()])


class TestWhatIsLacking:
    @pytest.fixture(autouse=True)
    def _nothing_is_known(self, monkeypatch):
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        found.lacking.cache_clear()
        yield
        found.lacking.cache_clear()

    def test_triton_itself(self, monkeypatch):
        monkeypatch.setattr(found, "find_spec", lambda _: None)
        assert found.lacking(torch.device("cpu")) == "Triton is not installed; pip install 'sweeper-lm[gpu]'"

    def test_a_gpu(self):
        assert found.lacking(torch.device("cpu")) == "Triton needs a GPU, and the device is cpu"

    def test_nothing_where_programs_are_interpreted(self, monkeypatch):
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        assert found.lacking(torch.device("cpu")) == ""

    @pytest.mark.parametrize(
        ("capability", "why"), [((7, 5), "the GPU has compute capability 7.5, and 8.0 is needed"), ((9, 0), "")]
    )
    def test_a_gpu_that_multiplies_tf32(self, monkeypatch, capability, why):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        assert found.lacking(torch.device("cuda")) == why


def test_the_functions_can_be_imported_without_triton(root):
    code = "import sys; sys.modules['triton'] = None; import model.optimizer"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=100)


def test_triton_is_not_imported_with_the_functions(root):
    code = "import sys, model.optimizer; sys.exit('triton' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=100)
