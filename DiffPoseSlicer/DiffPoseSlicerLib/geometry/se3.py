"""Rotations and rigid transforms: SO(3) and SE(3) with their exponential maps.

Conventions, for the whole project:

- A twist is ``xi = (omega, v)``: rotation vector in radians first, translation in mm second.
- ``se3_exp`` is the group exponential (the translation is coupled: ``t = V(omega) v``). Registration and pose sampling
  use the simpler decoupled form of :func:`turn_about`, which turns about a point and then shifts.
- All functions work in float64, take any leading batch shape ``(...,)``, and are exact near zero and near pi: the small
  angle series and the closed form agree to rounding where they meet.

Source of the formulas: Barfoot, *State Estimation for Robotics* (2nd ed.), chapter 8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# Below this angle the Taylor series, cut after the third term, is exact to float64 rounding (theta^6 / 7! < 1e-17).
_SMALL_ANGLE = 5e-3


def hat(omega: ArrayLike) -> Array:
    """Cross-product matrices: ``hat(a) @ b == cross(a, b)``. (..., 3) -> (..., 3, 3)."""
    omega = np.asarray(omega, float)
    x, y, z = np.moveaxis(omega, -1, 0)
    zero = np.zeros_like(x)
    return np.stack([np.stack([zero, -z, y], -1), np.stack([z, zero, -x], -1), np.stack([-y, x, zero], -1)], -2)


def _coefficients(theta: Array) -> tuple[Array, Array, Array]:
    """sin(t)/t, (1 - cos t)/t^2 and (t - sin t)/t^3, each exact down to zero."""
    small = theta < _SMALL_ANGLE
    safe = np.where(small, 1.0, theta)
    square = theta**2
    a = np.where(small, 1 - square / 6 + square**2 / 120, np.sin(safe) / safe)
    # 2 sin^2(t/2) instead of 1 - cos t: no cancellation.
    b = np.where(small, 0.5 - square / 24 + square**2 / 720, 2 * np.sin(safe / 2) ** 2 / safe**2)
    c = np.where(small, 1 / 6 - square / 120 + square**2 / 5040, (safe - np.sin(safe)) / safe**3)
    return a, b, c


def so3_exp(omega: ArrayLike) -> Array:
    """Rotation matrices from rotation vectors in radians (Rodrigues). (..., 3) -> (..., 3, 3)."""
    omega = np.asarray(omega, float)
    a, b, _ = _coefficients(np.linalg.norm(omega, axis=-1))
    k = hat(omega)
    return np.eye(3) + a[..., None, None] * k + b[..., None, None] * (k @ k)


def so3_log(rotation: ArrayLike) -> Array:
    """Rotation vectors (angle in [0, pi]) from rotation matrices. (..., 3, 3) -> (..., 3).

    Goes through the unit quaternion with the largest component taken first (Shepperd 1978), which is exact at every
    angle, pi included, where the antisymmetric part of the matrix vanishes.
    """
    r = np.asarray(rotation, float)
    trace = np.trace(r, axis1=-2, axis2=-1)
    diagonal = np.diagonal(r, axis1=-2, axis2=-1)
    candidates = np.concatenate([trace[..., None], diagonal], -1)
    w, x, y, z = (
        np.stack(
            [1 + trace, r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], -1
        ),
        np.stack(
            [
                r[..., 2, 1] - r[..., 1, 2],
                1 + 2 * r[..., 0, 0] - trace,
                r[..., 0, 1] + r[..., 1, 0],
                r[..., 0, 2] + r[..., 2, 0],
            ],
            -1,
        ),
        np.stack(
            [
                r[..., 0, 2] - r[..., 2, 0],
                r[..., 0, 1] + r[..., 1, 0],
                1 + 2 * r[..., 1, 1] - trace,
                r[..., 1, 2] + r[..., 2, 1],
            ],
            -1,
        ),
        np.stack(
            [
                r[..., 1, 0] - r[..., 0, 1],
                r[..., 0, 2] + r[..., 2, 0],
                r[..., 1, 2] + r[..., 2, 1],
                1 + 2 * r[..., 2, 2] - trace,
            ],
            -1,
        ),
    )
    best = np.argmax(candidates, -1)
    quaternion = np.take_along_axis(np.stack([w, x, y, z], -2), best[..., None, None], -2)[..., 0, :]
    quaternion = quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)
    quaternion = quaternion * np.where(quaternion[..., :1] < 0, -1.0, 1.0)
    vector = quaternion[..., 1:]
    sine = np.linalg.norm(vector, axis=-1)
    half = np.arctan2(sine, quaternion[..., 0])
    # theta / sin(theta/2), with its limit 2 / w at zero.
    scale = np.where(sine < 1e-12, 2 / quaternion[..., 0].clip(0.5), 2 * half / np.where(sine < 1e-12, 1.0, sine))
    return vector * scale[..., None]


def so3_left_jacobian(omega: ArrayLike) -> Array:
    """J with exp(omega + d) ~ exp(J d) exp(omega); also V of :func:`se3_exp`. (..., 3) -> (..., 3, 3)."""
    omega = np.asarray(omega, float)
    _, b, c = _coefficients(np.linalg.norm(omega, axis=-1))
    k = hat(omega)
    return np.eye(3) + b[..., None, None] * k + c[..., None, None] * (k @ k)


def rigid(rotation: ArrayLike, translation: ArrayLike) -> Array:
    """4x4 matrices from rotations (..., 3, 3) and translations (..., 3)."""
    rotation, translation = np.asarray(rotation, float), np.asarray(translation, float)
    shape = np.broadcast_shapes(rotation.shape[:-2], translation.shape[:-1])
    matrix = np.zeros((*shape, 4, 4))
    matrix[..., :3, :3] = rotation
    matrix[..., :3, 3] = translation
    matrix[..., 3, 3] = 1
    return matrix


def inverse(transform: ArrayLike) -> Array:
    """Inverse of rigid 4x4 matrices, by transposing the rotation."""
    transform = np.asarray(transform, float)
    transposed = np.swapaxes(transform[..., :3, :3], -1, -2)
    return rigid(transposed, -(transposed @ transform[..., :3, 3:])[..., 0])


def se3_exp(xi: ArrayLike) -> Array:
    """Group exponential of twists (omega, v). (..., 6) -> (..., 4, 4)."""
    xi = np.asarray(xi, float)
    omega, v = xi[..., :3], xi[..., 3:]
    return rigid(so3_exp(omega), (so3_left_jacobian(omega) @ v[..., None])[..., 0])


def se3_log(transform: ArrayLike) -> Array:
    """Twists (omega, v) of rigid matrices, (..., 4, 4) -> (..., 6): inverse of :func:`se3_exp` for angles below pi."""
    transform = np.asarray(transform, float)
    omega = so3_log(transform[..., :3, :3])
    v = np.linalg.solve(so3_left_jacobian(omega), transform[..., :3, 3:])[..., 0]
    return np.concatenate([omega, v], -1)


def adjoint(transform: ArrayLike) -> Array:
    """Ad with T exp(xi) T^-1 == exp(Ad xi), twists ordered (omega, v). (..., 4, 4) -> (..., 6, 6)."""
    transform = np.asarray(transform, float)
    rotation = transform[..., :3, :3]
    matrix = np.zeros((*transform.shape[:-2], 6, 6))
    matrix[..., :3, :3] = rotation
    matrix[..., 3:, 3:] = rotation
    matrix[..., 3:, :3] = hat(transform[..., :3, 3]) @ rotation
    return matrix


def se3_left_jacobian(xi: ArrayLike) -> Array:
    """J with exp(xi + d) ~ exp(J d) exp(xi) in SE(3), twists ordered (omega, v). (..., 6) -> (..., 6, 6).

    Barfoot, eq. 8.91, with the blocks in our order.
    """
    xi = np.asarray(xi, float)
    p, r = hat(xi[..., :3]), hat(xi[..., 3:])
    theta = np.linalg.norm(xi[..., :3], axis=-1)
    _, b, c = _coefficients(theta)
    # The two higher coefficients lose all digits to cancellation well above _SMALL_ANGLE: series up to 0.2 rad.
    small = theta < 0.2
    safe, square = np.where(small, 1.0, theta), theta**2
    d = np.where(
        small,
        1 / 24 - square / 720 + square**2 / 40320 - square**3 / 3628800,
        (safe**2 + 2 * np.cos(safe) - 2) / (2 * safe**4),
    )
    e = np.where(
        small,
        1 / 120 - square / 2520 + square**2 / 120960 - square**3 / 9979200,
        (2 * safe - 3 * np.sin(safe) + safe * np.cos(safe)) / (2 * safe**5),
    )
    b, c, d, e = (x[..., None, None] for x in (b, c, d, e))
    pr, rp = p @ r, r @ p
    q = 0.5 * r + c * (pr + rp + pr @ p) + d * (p @ pr + rp @ p - 3 * pr @ p) + e * (pr @ p @ p + p @ pr @ p)
    jacobian = np.zeros((*xi.shape[:-1], 6, 6))
    rotation = so3_left_jacobian(xi[..., :3])
    jacobian[..., :3, :3] = rotation
    jacobian[..., 3:, 3:] = rotation
    jacobian[..., 3:, :3] = q
    return jacobian


def turn_about(xi: ArrayLike, center: ArrayLike) -> Array:
    """The rigid map x -> exp(omega) (x - center) + center + v. xi (..., 6), center (..., 3) -> (..., 4, 4).

    This decoupled form is the one registration steps in and covariances are stated in: v moves the centre itself, in
    mm, whatever omega is.
    """
    xi, center = np.asarray(xi, float), np.asarray(center, float)
    rotation = so3_exp(xi[..., :3])
    return rigid(rotation, center - (rotation @ center[..., None])[..., 0] + xi[..., 3:])


def rotation_angle(rotation: ArrayLike) -> Array:
    """Angle in radians, in [0, pi], of rotation matrices (..., 3, 3)."""
    return np.linalg.norm(so3_log(rotation), axis=-1)


def rigidity_error(transform: ArrayLike) -> float:
    """How far a 4x4 matrix is from a rigid one: the largest absolute error in R^T R - I, det R - 1 and the last row."""
    transform = np.asarray(transform, float)
    rotation = transform[:3, :3]
    return float(
        max(
            np.abs(rotation.T @ rotation - np.eye(3)).max(),
            abs(np.linalg.det(rotation) - 1),
            np.abs(transform[3] - [0, 0, 0, 1]).max(),
        )
    )


def nearest_rigid(transform: ArrayLike) -> Array:
    """The rigid matrix closest to a nearly rigid one (Frobenius norm, by SVD): removes the rounding of a text file."""
    transform = np.asarray(transform, float)
    u, _, vt = np.linalg.svd(transform[:3, :3])
    return rigid(u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt, transform[:3, 3])
