"""nanodrr's renderer (an optional package), as first-order registration takes one: to compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.se3 import Array
from ..imaging.ct import AttenuationGrid


def nanodrr_projector(grid: AttenuationGrid) -> Callable[..., tuple[Array, Callable[[Array], Array]]]:
    """Renders a grid through nanodrr's torch path, with the same step as ours; see `first_order.Renderer`.

    Raises:
        InputError: nanodrr is not installed.
    """
    try:
        from nanodrr.data import Subject
        from nanodrr.drr import render
    except ImportError:
        raise InputError("nanodrr is not installed: run `pip install nanodrr`, or leave the method out.") from None
    import torch

    from .autograd import turn_about

    mu = torch.tensor(grid.mu)[None, None]
    size = torch.tensor(grid.mu.shape[::-1], dtype=torch.float32)
    to_grid = torch.diag(torch.cat([2 / size, torch.ones(1)]))
    to_grid[:3, 3] = 1 / size - 1
    affine = torch.tensor(grid.affine, dtype=torch.float32)
    inverse = torch.tensor(grid.ras_to_index, dtype=torch.float32)
    subject = Subject(
        mu, torch.zeros_like(mu), affine, inverse, to_grid, torch.zeros(3), max_label=0, convert_to_mu=False
    )
    samples = round(float(np.linalg.norm(np.array(grid.mu.shape[::-1]) * grid.spacing) / min(grid.spacing)) / 2)

    def project(carm: CArm, camera_to_ras: Array, pixels: Any, center: Array) -> tuple[Array, Callable[[Array], Array]]:
        if pixels is not None:
            raise InputError("nanodrr renders whole images here: leave out patches.")
        matrix = carm.intrinsics.copy()
        matrix[:2, 2] += 0.5  # its pixel centres are at + 1/2
        k_inverse = torch.tensor(np.linalg.inv(matrix), dtype=torch.float32)[None]
        xi = torch.zeros(6, dtype=torch.float64, requires_grad=True)
        camera = torch.tensor(np.asarray(camera_to_ras, float))
        ras = np.linalg.inv(camera_to_ras)
        center_cam = torch.tensor(ras[:3, :3] @ center + ras[:3, 3])
        # The anatomy moved is the camera moved by the inverse.
        moved = (camera @ torch.linalg.inv(turn_about(xi, center_cam)))[None].float()
        distance = torch.tensor([float(carm.source_to_detector)])
        image = render(subject, k_inverse, moved, distance, *carm.image_size, n_samples=samples, backend="torch")
        flat = image.reshape(-1)

        def pull(gradient: Array) -> Array:
            (by_twist,) = torch.autograd.grad(flat, xi, torch.tensor(gradient, dtype=flat.dtype))
            return by_twist.numpy()

        return flat.detach().double().numpy(), pull

    return project
