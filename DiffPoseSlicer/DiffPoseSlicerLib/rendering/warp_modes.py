"""Two more ways along a ray: exact through voxels of constant value, and one channel for every structure.

Plain Warp, one thread a ray, for checking and for teaching a network where structures are: a few times slower than the
fused kernel, and without derivatives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import warp as wp
from numpy.typing import NDArray

from ..geometry.se3 import Array
from .threads import cores, workers
from .warp_mode_kernels import exact_kernel, structures_kernel

wp.config.log_level = wp.LOG_ERROR


def exact(mu: NDArray[np.float32], camera: Array, matrices: Array, pixels: Array, device: str) -> NDArray[np.float32]:
    """Exact line integrals (B, N).

    Args:
        mu: [nz, ny, nx].
        camera: (5,) column and row spacing, principal point, source to detector.
        matrices: (B, 4, 4) index from camera.
        pixels: (N, 2) as (column, row).
        device: "cpu" or "cuda:N".
    """
    images: Any = wp.zeros((len(matrices), len(pixels)), dtype=wp.float32, device=device)
    _launch(exact_kernel, device, images, [wp.array(mu, device=device)], camera, matrices, pixels)
    return images.numpy()


def structures(
    mu: NDArray[np.float32],
    labels: NDArray[np.uint8],
    step: float,
    camera: Array,
    matrices: Array,
    pixels: Array,
    device: str,
) -> NDArray[np.float32]:
    """Line integrals by label (B, N, largest label + 1). As :func:`exact`; `labels` like `mu`, `step` in mm."""
    shape = (len(matrices), len(pixels), int(labels.max()) + 1)
    images: Any = wp.zeros(shape, dtype=wp.float32, device=device)
    inputs = [wp.array(mu, device=device), wp.array(labels, device=device), wp.float64(step)]
    _launch(structures_kernel, device, images, inputs, camera, matrices, pixels)
    return images.numpy()


def _launch(
    kernel: Any, device: str, images: Any, inputs: list[Any], camera: Array, matrices: Array, pixels: Array
) -> None:
    """All rays, interleaved over the cores (a CPU launch runs on the thread that makes it)."""
    shared = [
        wp.array(camera, dtype=wp.float64, device=device),
        wp.array(matrices, dtype=wp.mat44d, device=device),
        wp.array(pixels, dtype=wp.float64, device=device),
    ]
    threads = cores() if device == "cpu" else 1
    dim = -(-images.shape[0] * images.shape[1] // threads)
    commands = [
        wp.launch(kernel, dim=dim, inputs=[n, threads, *inputs, *shared, images], device=device, record_cmd=True)
        for n in range(threads)
    ]
    workers.run([command.launch for command in commands])
