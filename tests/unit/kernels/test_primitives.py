import subprocess
import sys

from kernels import primitives, reference


def test_every_primitive_of_the_seam_has_a_reference():
    assert all(hasattr(reference, name.rstrip("_")) for name in primitives.__all__)


def test_the_package_can_be_imported_without_torch():
    code = "import sys; sys.modules['torch'] = None; import kernels, model.parameters, model.shape, model.schedule"
    subprocess.run([sys.executable, "-c", code], check=True)
