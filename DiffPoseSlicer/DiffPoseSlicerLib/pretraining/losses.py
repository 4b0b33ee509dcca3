"""How far a predicted pose is from the true one: losses for training, batched in torch.

Offsets are (omega, v) of `geometry.Pose.about`: rotation vector in radians and shift in mm, camera axes. All functions
map predicted and true offsets (n, 6) to one value an image (n,).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def so3_exp(omega: Tensor) -> Tensor:
    """Rotation matrices (n, 3, 3) from rotation vectors (n, 3), differentiable everywhere, zero included."""
    square = (omega * omega).sum(-1)
    small = square < 1e-6
    theta = torch.where(small, torch.ones_like(square), square).sqrt()
    a = torch.where(small, 1 - square / 6, theta.sin() / theta)
    b = torch.where(small, 0.5 - square / 24, (1 - theta.cos()) / theta**2)
    x, y, z = omega.unbind(-1)
    zero = torch.zeros_like(x)
    k = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    eye = torch.eye(3, dtype=omega.dtype, device=omega.device)
    return eye + a[:, None, None] * k + b[:, None, None] * (k @ k)


def rotation_angle(first: Tensor, second: Tensor) -> Tensor:
    """Geodesic distance (n,) in radians between rotations (n, 3, 3), with a gradient that stays finite at zero."""
    difference = first @ second.transpose(1, 2)
    axis = torch.stack(
        [
            difference[:, 2, 1] - difference[:, 1, 2],
            difference[:, 0, 2] - difference[:, 2, 0],
            difference[:, 1, 0] - difference[:, 0, 1],
        ],
        -1,
    )
    sine = (axis.square().sum(-1) + 1e-12).sqrt() / 2
    cosine = (difference.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2
    return torch.atan2(sine, cosine)


def so3_left_jacobian_inverse(rotation: Tensor, angle: Tensor) -> Tensor:
    """The inverse left Jacobian (n, 3, 3) of rotations (n, 3, 3) turning by angles (n,) below pi.

    V^-1 = I - K / 2 + (1 / theta^2 - cot(theta / 2) / (2 theta)) K^2, with K = log R.
    """
    small = angle < 1e-2
    safe = torch.where(small, torch.ones_like(angle), angle)
    square = torch.where(small, 1 / 12 + angle**2 / 720, 1 / safe**2 - 1 / (2 * safe * (safe / 2).tan()))
    log = torch.where(small, 0.5 + angle**2 / 12, safe / (2 * safe.sin()))[:, None, None] * (
        rotation - rotation.transpose(1, 2)
    )
    eye = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    return eye - log / 2 + square[:, None, None] * (log @ log)


def default_points(extent: float = 80.0, count: int = 32) -> Tensor:
    """Seeded uniform points (count, 3) within +-extent mm of the isocentre."""
    return torch.from_numpy(np.random.default_rng(7).uniform(-extent, extent, (count, 3)).astype(np.float32))


def camera_to_ras(offsets: Tensor, view: Tensor, center: Tensor, source_to_isocenter: float) -> Tensor:
    """Poses (n, 4, 4) of offsets (n, 6), differentiable; as `sampling.offsets_to_poses`."""
    turn = so3_exp(offsets[:, :3]) @ view.T
    axis = torch.tensor([0, 0, source_to_isocenter], dtype=offsets.dtype, device=offsets.device)
    back = turn.transpose(1, 2)
    source = center - (back @ (axis + offsets[:, 3:])[..., None])[..., 0]
    last = torch.tensor([0, 0, 0, 1.0], dtype=offsets.dtype, device=offsets.device).expand(len(offsets), 1, 4)
    return torch.cat([torch.cat([back, source[..., None]], -1), last], 1)


def ncc(first: Tensor, second: Tensor) -> Tensor:
    """Normalised cross-correlation (n,) of images (n, pixels)."""
    first = first - first.mean(1, keepdim=True)
    second = second - second.mean(1, keepdim=True)
    scale = (first.square().mean(1) * second.square().mean(1) + 1e-10).sqrt()
    return (first * second).mean(1) / scale


class PoseLoss:
    """A selectable loss.

    - "landmark": mean distance of points about the isocentre, mm, in the camera frame; the depth component counts by
      `depth_weight`, because a single view hardly shows it and refinement forgives it.
    - "geodesic_log": |log(T_predicted T_true^-1)| with radians and millimetres mixed as they are (DiffPose).
    - "double_geodesic": sqrt((f theta)^2 + |t - t'|^2) with f half the source-to-detector distance (DiffPose).
    - "geodesic": the sum of the last two, DiffPose's pose loss.
    """

    NAMES = ("landmark", "geodesic_log", "double_geodesic", "geodesic")

    def __init__(self, name: str, source_to_detector: float, depth_weight: float = 0.5, device: Any = "cpu") -> None:
        if name not in self.NAMES:
            raise ValueError(f"unknown loss {name!r}")
        self.name = name
        self.focal = source_to_detector / 2
        self.weights = torch.tensor([1.0, 1.0, depth_weight], device=device)
        self.points = default_points().to(device)

    def __call__(self, predicted: Tensor, true: Tensor) -> Tensor:
        turn, true_turn = so3_exp(predicted[:, :3]), so3_exp(true[:, :3])
        shift, true_shift = predicted[:, 3:], true[:, 3:]
        if self.name == "landmark":
            return self._landmark(turn - true_turn, shift - true_shift, self.weights)
        angle = rotation_angle(turn, true_turn)
        double = ((self.focal * angle) ** 2 + (shift - true_shift).square().sum(-1) + 1e-4).sqrt()
        if self.name == "double_geodesic":
            return double
        difference = turn @ true_turn.transpose(1, 2)
        relative = so3_left_jacobian_inverse(difference, angle) @ (
            shift[..., None] - difference @ true_shift[..., None]
        )
        log = (angle**2 + relative[..., 0].square().sum(-1) + 1e-4).sqrt()
        return log if self.name == "geodesic_log" else log + double

    @staticmethod
    def spread(predicted: Tensor, true: Tensor, log_spread: Tensor, ranges: Tensor) -> Tensor:
        """Gaussian negative log-likelihood (n,) of the expected errors; moves only these, never the prediction."""
        error = (predicted.detach() - true) / ranges
        return (log_spread + 0.5 * error.square() * torch.exp(-2 * log_spread)).sum(-1)

    def mtre(self, predicted: Tensor, true: Tensor) -> Tensor:
        """Mean distance of the points in the camera frame, mm."""
        ones = torch.ones_like(self.weights)
        return self._landmark(so3_exp(predicted[:, :3]) - so3_exp(true[:, :3]), predicted[:, 3:] - true[:, 3:], ones)

    def _landmark(self, turn: Tensor, shift: Tensor, weights: Tensor) -> Tensor:
        moved = self.points @ turn.transpose(1, 2) + shift[:, None]
        return ((moved * weights).square().sum(-1) + 1e-6).sqrt().mean(-1)
