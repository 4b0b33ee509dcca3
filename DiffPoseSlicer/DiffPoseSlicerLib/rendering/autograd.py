"""Images as a function torch can differentiate: the kernel's own Jacobian behind torch.autograd."""

from __future__ import annotations

from typing import Any

import torch

from ..geometry.carm import CArm
from .renderer import Projector


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        camera_to_ras: torch.Tensor,
        projector: Projector,
        carm: CArm,
        pixels: Any,
    ) -> torch.Tensor:
        poses = camera_to_ras.detach().cpu().double().numpy()
        if not camera_to_ras.requires_grad:
            return projector.project_torch(carm, poses, pixels)
        # About the source: then the twist's rotation part is that of the camera alone.
        poses = poses.reshape(-1, 4, 4)
        images, jacobian = projector.project_torch(carm, poses, pixels, poses[:, :3, 3], jacobian=True)
        ctx.save_for_backward(camera_to_ras, jacobian)
        return images.reshape(*camera_to_ras.shape[:-2], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        camera_to_ras, jacobian = ctx.saved_tensors
        gradient = gradients[0].reshape(len(jacobian), -1)
        twist = torch.einsum("bn,bnk->bk", gradient, jacobian).to(camera_to_ras)
        rotation = camera_to_ras.reshape(-1, 4, 4)[:, :3, :3]
        omega, v = twist[:, :3], twist[:, 3:]
        # The anatomy moved by (omega, v) is the camera moved by the inverse: dR = -R hat(omega), dt = -R v.
        x, y, z = omega.unbind(-1)
        zero = torch.zeros_like(x)
        hat = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
        result = torch.zeros_like(camera_to_ras).reshape(-1, 4, 4)
        result[:, :3, :3] = -0.5 * rotation @ hat
        result[:, :3, 3] = -(rotation @ v[..., None])[..., 0]
        return result.reshape(camera_to_ras.shape), None, None, None


def project(projector: Projector, carm: CArm, camera_to_ras: torch.Tensor, pixels: Any = None) -> torch.Tensor:
    """As Projector.project, differentiable by the pose.

    Args:
        projector: Renders, on its device.
        carm: The camera.
        camera_to_ras: (4, 4) or (B, 4, 4), rigid; float64 keeps all of a pose's digits.
        pixels: As Projector.project has it.

    Returns:
        (N,) or (B, N) float32. The gradient is that along rigid motions: what a step off them would change is left out.
    """
    return _Project.apply(camera_to_ras, projector, carm, pixels)


def turn_about(xi: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    """geometry.se3.turn_about for tensors: (..., 6), (3,) or (..., 3) -> (..., 4, 4), differentiable at zero too."""
    zero = torch.zeros_like(xi[..., 0])
    x, y, z = xi[..., :3].unbind(-1)
    hat = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*xi.shape[:-1], 3, 3)
    rotation = torch.linalg.matrix_exp(hat)
    shift = center - (rotation @ center[..., None])[..., 0] + xi[..., 3:]
    last = torch.tensor([0, 0, 0, 1.0], dtype=xi.dtype, device=xi.device).expand(*xi.shape[:-1], 1, 4)
    return torch.cat([torch.cat([rotation, shift[..., None]], -1), last], -2)
