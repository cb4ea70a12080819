"""What travels between modules and processes, by name. No torch, so that those who only pass it on start soon."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""Pictures as a model sees them: [S, S, 3] or [N, S, S, 3], RGB."""
Embeddings = NDArray[np.float32]
"""[N, D], unit norm."""
