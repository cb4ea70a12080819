"""Vectors that lie as CLIP's do: pictures in clusters, texts apart from them, a few directions carrying most.

The recipe is that of docs/RETRIEVAL.md: clusters, a decaying spectrum, a mean for pictures and another for texts, to
which pictures are no neighbours. That page tells no more. The numbers here were chosen so that 1/32 of an IVF's cells
holds about as many of the ten nearest as there: to pictures .974 (.975 seen here with 100,000 x 512 and 2048 cells), to
texts .846 (.912 here: wider spreads bring no less).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

CLUSTERS = 2000
PICTURES_SPREAD, TEXTS_SPREAD = 1.0, 3.0
"""Around a cluster's centre; centres are spread by 1 around the mean."""
MEAN = 0.8
"""Length of the mean of all pictures, and of all texts."""
GAP = 0.7
"""How far the mean of texts is from that of pictures towards one of its own."""
OWN = 0.7
"""What a text says that no picture shows, in directions of its own."""
_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class Clusters:
    """Where vectors of `dimension` lie; `seed` decides."""

    dimension: int
    seed: int = 0

    def pictures(self, count: int, part: int) -> Vectors:
        """float32 [count, D], unit norm; other ones for each `part`."""
        return self._drawn(count, part, PICTURES_SPREAD, own=0.0)

    def texts(self, count: int, part: int) -> Vectors:
        """As `pictures`, of texts."""
        return self._drawn(count, part, TEXTS_SPREAD, own=OWN)

    def _drawn(self, count: int, part: int, spread: float, own: float) -> Vectors:
        world = np.random.default_rng(self.seed)
        width = self.dimension
        spectrum = np.arange(1, width + 1, dtype=np.float32) ** -0.5  # of standard deviations
        spectrum /= np.linalg.norm(spectrum)
        turned, turned_otherwise = (spectrum[:, None] * _rotation(world, width) for _ in range(2))
        pictured, said = (_unit(world.standard_normal((1, width), np.float32)) for _ in range(2))
        centres = world.standard_normal((CLUSTERS, width), np.float32) @ turned
        mean = MEAN * (((1 - GAP) * pictured + GAP * said) if own else pictured)
        random = np.random.default_rng((self.seed, part))
        found = np.empty((count, width), np.float32)
        for start in range(0, count, _AT_ONCE):
            some = found[start : start + _AT_ONCE]
            some[:] = random.standard_normal(some.shape, np.float32) @ turned
            some *= spread
            some += mean + centres[random.integers(0, CLUSTERS, len(some))]
            if own:
                some += own * (random.standard_normal(some.shape, np.float32) @ turned_otherwise)
            _unit(some)
        return found


def _rotation(random: np.random.Generator, width: int) -> Vectors:
    return np.linalg.qr(random.standard_normal((width, width)))[0].astype(np.float32)


def _unit(vectors: Vectors) -> Vectors:
    """In place."""
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
