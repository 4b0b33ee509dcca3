# mypy: ignore-errors
"""Kernels of two more ways along a ray: see `warp_modes`. Written in Warp's own language, which mypy does not know."""

from __future__ import annotations

import warp as wp

MODULE = "diffposeslicer_modes"


@wp.struct
class Ray:
    """A ray in index coordinates, per mm: where it starts, where it goes, and where it meets the grid."""

    source: wp.vec3d
    direction: wp.vec3d
    enter: wp.float64
    leave: wp.float64


@wp.func
def ray_of(
    camera: wp.array(dtype=wp.float64),
    matrix: wp.mat44d,
    u: wp.float64,
    v: wp.float64,
    low: wp.vec3d,
    high: wp.vec3d,
) -> Ray:
    """The ray to pixel (u, v), cut to the box from `low` to `high`; leave < enter where it misses."""
    pixel = wp.vec3d((u - camera[2]) * camera[0], (v - camera[3]) * camera[1], camera[4])
    length = wp.length(pixel)
    ray = Ray()
    direction = wp.transform_vector(matrix, pixel / length)
    ray.source = wp.transform_point(matrix, wp.vec3d())
    ray.enter = wp.float64(0.0)
    ray.leave = length
    for a in range(3):
        if wp.abs(direction[a]) < wp.float64(1e-12):
            direction[a] = wp.float64(1e-12)
        t0 = (low[a] - ray.source[a]) / direction[a]
        t1 = (high[a] - ray.source[a]) / direction[a]
        ray.enter = wp.max(ray.enter, wp.min(t0, t1))
        ray.leave = wp.min(ray.leave, wp.max(t0, t1))
    ray.direction = direction
    return ray


@wp.func
def size_of(mu: wp.array3d(dtype=wp.float32)) -> wp.vec3d:
    """Voxels along i, j, k."""
    return wp.vec3d(wp.float64(mu.shape[2]), wp.float64(mu.shape[1]), wp.float64(mu.shape[0]))


@wp.kernel(enable_backward=False, module=MODULE)
def exact_kernel(
    offset: int,
    stride: int,
    mu: wp.array3d(dtype=wp.float32),
    camera: wp.array(dtype=wp.float64),
    matrices: wp.array(dtype=wp.mat44d),
    pixels: wp.array2d(dtype=wp.float64),
    images: wp.array2d(dtype=wp.float32),
) -> None:
    """Sum over voxels of their value times the length of the ray within (Siddon 1985; stepping as Amanatides & Woo)."""
    number = wp.tid() * stride + offset
    if number >= images.shape[0] * images.shape[1]:
        return
    b = number // images.shape[1]
    p = number - b * images.shape[1]
    # Voxel i reaches from i - 1/2 to i + 1/2.
    size = size_of(mu)
    half = wp.vec3d(wp.float64(0.5), wp.float64(0.5), wp.float64(0.5))
    ray = ray_of(camera, matrices[b], pixels[p, 0], pixels[p, 1], -half, size - half)
    total = wp.float64(0.0)
    if ray.enter < ray.leave:
        voxel = wp.vec3i()
        ahead = wp.vec3d()  # distance at which the ray crosses the next face of each axis
        for a in range(3):
            at = ray.source[a] + ray.direction[a] * ray.enter + wp.float64(0.5)
            voxel[a] = wp.clamp(int(wp.floor(at)), 0, int(size[a]) - 1)
            face = wp.float64(voxel[a]) - wp.float64(0.5)
            if ray.direction[a] > wp.float64(0.0):
                face += wp.float64(1.0)
            ahead[a] = (face - ray.source[a]) / ray.direction[a]
        t = ray.enter
        while t < ray.leave:
            a = int(0)  # noqa: RUF046, UP018  a variable, not a constant
            if ahead[1] < ahead[a]:
                a = 1
            if ahead[2] < ahead[a]:
                a = 2
            until = wp.min(ahead[a], ray.leave)
            if until > t:
                total += wp.float64(mu[voxel[2], voxel[1], voxel[0]]) * (until - t)
                t = until
            if ray.direction[a] > wp.float64(0.0):
                voxel[a] = voxel[a] + 1
                ahead[a] = (wp.float64(voxel[a]) + wp.float64(0.5) - ray.source[a]) / ray.direction[a]
            else:
                voxel[a] = voxel[a] - 1
                ahead[a] = (wp.float64(voxel[a]) - wp.float64(0.5) - ray.source[a]) / ray.direction[a]
            if voxel[a] < 0 or voxel[a] >= int(size[a]):
                break
    images[b, p] = wp.float32(total)


@wp.kernel(enable_backward=False, module=MODULE)
def structures_kernel(
    offset: int,
    stride: int,
    mu: wp.array3d(dtype=wp.float32),
    labels: wp.array3d(dtype=wp.uint8),
    step: wp.float64,
    camera: wp.array(dtype=wp.float64),
    matrices: wp.array(dtype=wp.mat44d),
    pixels: wp.array2d(dtype=wp.float64),
    images: wp.array3d(dtype=wp.float32),
) -> None:
    """The fused kernel's samples, each added to the channel of the nearest voxel's label."""
    number = wp.tid() * stride + offset
    if number >= images.shape[0] * images.shape[1]:
        return
    b = number // images.shape[1]
    p = number - b * images.shape[1]
    low = wp.vec3d(wp.float64(1e-3), wp.float64(1e-3), wp.float64(1e-3))
    ray = ray_of(camera, matrices[b], pixels[p, 0], pixels[p, 1], low, size_of(mu) - low - wp.vec3d(1.0, 1.0, 1.0))
    m = wp.ceil(ray.enter / step - wp.float64(0.5))
    last = wp.floor(ray.leave / step - wp.float64(0.5))
    while m <= last and ray.enter <= ray.leave:
        at = ray.source + ray.direction * ((m + wp.float64(0.5)) * step)
        i = int(at[0])
        j = int(at[1])
        k = int(at[2])
        fx = wp.float32(at[0]) - float(i)
        fy = wp.float32(at[1]) - float(j)
        fz = wp.float32(at[2]) - float(k)
        near_face = wp.lerp(
            wp.lerp(mu[k, j, i], mu[k, j, i + 1], fx), wp.lerp(mu[k, j + 1, i], mu[k, j + 1, i + 1], fx), fy
        )
        far_face = wp.lerp(
            wp.lerp(mu[k + 1, j, i], mu[k + 1, j, i + 1], fx),
            wp.lerp(mu[k + 1, j + 1, i], mu[k + 1, j + 1, i + 1], fx),
            fy,
        )
        label = int(labels[int(at[2] + wp.float64(0.5)), int(at[1] + wp.float64(0.5)), int(at[0] + wp.float64(0.5))])
        images[b, p, label] = images[b, p, label] + wp.lerp(near_face, far_face, fz) * wp.float32(step)
        m += wp.float64(1.0)
