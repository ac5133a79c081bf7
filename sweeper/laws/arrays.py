"""The type of the arrays that laws, fits and figures compute with."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
