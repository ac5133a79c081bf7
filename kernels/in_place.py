"""Steps that leave their result in the memory of what they are given, equal to the reference to the last bit.

What a step of an optimiser stacks for itself is read and written while it is in the cache; a new tensor of a group's
size would be memory that the kernel has to find first, page by page.
"""

from collections.abc import Callable

from torch import Tensor

from kernels.reference import matrix_radius


def sphere_step_(
    weight: Tensor,
    direction: Tensor,
    rate: float | Tensor,
    radius: Tensor,
    norm: Callable[[Tensor], Tensor] = matrix_radius,
) -> Tensor:
    """As `kernels.reference.sphere_step`, in the memory of `weight`; of `direction` nothing is left."""
    weight.sub_(direction.mul_(rate * radius / norm(direction)))
    return weight.mul_(radius / norm(weight))
