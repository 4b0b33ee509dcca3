"""Fine detail of an image: what is left when a blur of it is taken off.

A CT's missing tissue, scatter, glare and display curves add what varies smoothly over an image. Local correlation
forgives most of it, and what is left pulls the pose along the beam. Edges a few pixels wide know nothing of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .intensity import blur_matrices
from .similarity import Float, Patches


class Detail:
    """Takes a blur off images whose values come in patches.

    Args:
        patches: of the images.
        mask: (P, K) 1 where a pixel counts: others have no part in the blur.
        sigma: of the blur, pixels.
    """

    def __init__(self, patches: Patches, mask: Float, sigma: float) -> None:
        self._patches = patches
        self._mask = patches.block(np.asarray(mask, np.float32).reshape(1, -1))
        rows, columns = self._mask.shape[1:]
        self._matrices = [spread @ gather for gather, spread in (blur_matrices(n, sigma) for n in (rows, columns))]
        self._weight = np.maximum(self._blur(self._mask), np.float32(1e-3))

    def __call__(self, values: Float) -> NDArray[np.float32]:
        """Values (B, P * K, ...) without their blur. Linear, so it serves derivatives by the pose as well."""
        image = self._patches.block(np.asarray(values, np.float32))
        trailing = (...,) + (None,) * (image.ndim - 3)
        return self._patches.unblock(image - self._blur(image * self._mask[trailing]) / self._weight[trailing])

    def _blur(self, image: Float) -> NDArray[np.float32]:
        down, across = self._matrices
        flat = image.reshape(*image.shape[:3], -1)
        blurred = np.tensordot(down, flat, (1, 1)).swapaxes(0, 1)
        return np.moveaxis(np.tensordot(blurred, across, (2, 1)), -1, 2).reshape(image.shape)
