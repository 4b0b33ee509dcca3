"""The fused kernel: one pass along each ray gives the line integral and its derivatives. One text for CPU and CUDA.

Samples lie at (m + 1/2) h mm from the source, m a whole number, whatever part of the ray meets the volume. The grid is
padded with air, so the interpolant is zero wherever a ray enters or leaves, and clipping has no part in the derivative.
The derivative returned is that of the line integral: the part of the gradient along the ray, which integrates to zero, is
taken out, where the derivative of the sum over the samples would add the derivative of the quadrature error. That error
varies quickly as samples slide through voxels: by depth its derivative is as large as the true one.

Derivatives come from two sums over the samples, of the interpolant's gradient g and of g times the distance from the
source: for an anatomy that turns and shifts by (omega, v) about c in camera axes, a sample at p sees d(mu)/dv = -g and
d(mu)/domega = -(p - c) x g, and p is distance times the ray's direction.

The loop over a ray is C++ (`wp.func_native`), written so that clang vectorises it: branch-free, reductions in float32.
"""

from __future__ import annotations

import warp as wp

_MARCH = r"""
    const float* mu = (const float*)grid;
    const double* cam = (const double*)camera;
    const double col = cam[0], row = cam[1], u0 = cam[2], v0 = cam[3], sdd = cam[4], h = cam[5];
    const int sy = nx, sz = nx * ny;
    const double hi[3] = {nx - 1 - 1e-3, ny - 1 - 1e-3, nz - 1 - 1e-3};
    const double lo = 1e-3;

    auto ray = [&](long long index) {
        const long long b = index / rays;
        const int p = (int)(index - b * rays);
        const double* pose = (const double*)poses + 15 * b;
        double u, v;
        if (pixels) { u = ((const float*)pixels)[2 * p]; v = ((const float*)pixels)[2 * p + 1]; }
        else { v = p / columns; u = p - (p / columns) * columns; }
        const double qx = (u - u0) * col, qy = (v - v0) * row, length = sqrt(qx * qx + qy * qy + sdd * sdd);
        const double r[3] = {qx / length, qy / length, sdd / length};
        double e[3], enter = 0, leave = length;
        for (int a = 0; a < 3; ++a) {
            e[a] = pose[3 * a] * r[0] + pose[3 * a + 1] * r[1] + pose[3 * a + 2] * r[2];
            const double s = pose[9 + a];
            if (e[a] * e[a] < 1e-24) { if (s < lo || s > hi[a]) leave = -1; continue; }
            const double ta = (lo - s) / e[a], tb = (hi[a] - s) / e[a];
            const double first = ta < tb ? ta : tb, second = ta < tb ? tb : ta;
            enter = first > enter ? first : enter;
            leave = second < leave ? second : leave;
        }
        const double m0 = ceil(enter / h - 0.5);
        const double count = floor(leave / h - 0.5) - m0 + 1;
        const int n = leave < enter || count < 0 ? 0 : (int)count;
        const double t0 = (m0 + 0.5) * h;
        const float x0 = pose[9] + e[0] * t0, y0 = pose[10] + e[1] * t0, z0 = pose[11] + e[2] * t0;
        const float ex = e[0] * h, ey = e[1] * h, ez = e[2] * h;

        if (!jacobians) {
            float sum = 0.f;
            #ifndef __CUDA_ARCH__
            #pragma clang loop vectorize(enable) interleave(enable)
            #endif
            for (int s = 0; s < n; ++s) {
                const float x = x0 + ex * (float)s, y = y0 + ey * (float)s, z = z0 + ez * (float)s;
                const int i = (int)x, j = (int)y, k = (int)z;
                const float fx = x - (float)i, fy = y - (float)j, fz = z - (float)k;
                const int o = k * sz + j * sy + i, o2 = o + sz;
                const float c000 = mu[o], c001 = mu[o + 1], c010 = mu[o + sy], c011 = mu[o + sy + 1];
                const float c100 = mu[o2], c101 = mu[o2 + 1], c110 = mu[o2 + sy], c111 = mu[o2 + sy + 1];
                const float a00 = c000 + fx * (c001 - c000), a01 = c010 + fx * (c011 - c010);
                const float a10 = c100 + fx * (c101 - c100), a11 = c110 + fx * (c111 - c110);
                const float b0 = a00 + fy * (a01 - a00), b1 = a10 + fy * (a11 - a10);
                sum += b0 + fz * (b1 - b0);
            }
            ((float*)images)[index] = sum * (float)h;
            return;
        }
        float sum = 0.f, g0 = 0.f, g1 = 0.f, g2 = 0.f, d0 = 0.f, d1 = 0.f, d2 = 0.f;
        #ifndef __CUDA_ARCH__
        #pragma clang loop vectorize(enable) interleave(enable)
        #endif
        for (int s = 0; s < n; ++s) {
            const float x = x0 + ex * (float)s, y = y0 + ey * (float)s, z = z0 + ez * (float)s;
            const int i = (int)x, j = (int)y, k = (int)z;
            const float fx = x - (float)i, fy = y - (float)j, fz = z - (float)k;
            const int o = k * sz + j * sy + i, o2 = o + sz;
            const float c000 = mu[o], c001 = mu[o + 1], c010 = mu[o + sy], c011 = mu[o + sy + 1];
            const float c100 = mu[o2], c101 = mu[o2 + 1], c110 = mu[o2 + sy], c111 = mu[o2 + sy + 1];
            const float e00 = c001 - c000, e01 = c011 - c010, e10 = c101 - c100, e11 = c111 - c110;
            const float a00 = c000 + fx * e00, a01 = c010 + fx * e01, a10 = c100 + fx * e10, a11 = c110 + fx * e11;
            const float f0 = a01 - a00, f1 = a11 - a10, b0 = a00 + fy * f0, b1 = a10 + fy * f1;
            const float gz = b1 - b0, gy = f0 + fz * (f1 - f0);
            const float h0 = e00 + fy * (e01 - e00), h1 = e10 + fy * (e11 - e10), gx = h0 + fz * (h1 - h0);
            const float t = (float)s;
            sum += b0 + fz * gz;
            g0 += gx; g1 += gy; g2 += gz;
            d0 += gx * t; d1 += gy * t; d2 += gz * t;
        }
        ((float*)images)[index] = sum * (float)h;
        // From index to camera axes, and from sample numbers to mm.
        const double gi[3] = {g0 * h, g1 * h, g2 * h}, di[3] = {d0 * h * h, d1 * h * h, d2 * h * h};
        double g[3], w[3];
        for (int a = 0; a < 3; ++a) {
            g[a] = pose[a] * gi[0] + pose[3 + a] * gi[1] + pose[6 + a] * gi[2];
            w[a] = pose[a] * di[0] + pose[3 + a] * di[1] + pose[6 + a] * di[2] + t0 * g[a];
        }
        // Sliding the anatomy along the ray changes no line integral. The sum over samples only knows that up to its
        // quadrature error, which is as large as the whole derivative by depth: take the slide out.
        const double along = g[0] * r[0] + g[1] * r[1] + g[2] * r[2];
        for (int a = 0; a < 3; ++a) g[a] -= along * r[a];
        const double* c = pose + 12;
        float* J = (float*)jacobians + 6 * index;
        J[0] = c[1] * g[2] - c[2] * g[1] - (r[1] * w[2] - r[2] * w[1]);
        J[1] = c[2] * g[0] - c[0] * g[2] - (r[2] * w[0] - r[0] * w[2]);
        J[2] = c[0] * g[1] - c[1] * g[0] - (r[0] * w[1] - r[1] * w[0]);
        J[3] = -g[0]; J[4] = -g[1]; J[5] = -g[2];
    };

    #ifdef __CUDA_ARCH__
    if (thread < total) ray(thread);
    #else
    // One call marches tiles until none is left; calls on other threads share the counter.
    int* counter = (int*)next;
    const long long tiles = (total + 63) / 64;
    for (long long tile = __atomic_fetch_add(counter, 1, 5); tile < tiles; tile = __atomic_fetch_add(counter, 1, 5)) {
        const long long last = (tile + 1) * 64 < total ? (tile + 1) * 64 : total;
        for (long long index = tile * 64; index < last; ++index) ray(index);
    }
    #endif
"""


@wp.func_native(_MARCH)
def march(
    thread: int,
    next: wp.uint64,
    total: wp.int64,
    rays: int,
    columns: int,
    grid: wp.uint64,
    nx: int,
    ny: int,
    nz: int,
    camera: wp.uint64,
    poses: wp.uint64,
    pixels: wp.uint64,
    images: wp.uint64,
    jacobians: wp.uint64,
) -> None: ...


@wp.kernel(enable_backward=False, module="diffposeslicer_trilinear")
def trilinear(
    next: wp.uint64,
    total: wp.int64,
    rays: int,
    columns: int,
    grid: wp.uint64,
    nx: int,
    ny: int,
    nz: int,
    camera: wp.uint64,
    poses: wp.uint64,
    pixels: wp.uint64,
    images: wp.uint64,
    jacobians: wp.uint64,
) -> None:
    """Line integrals of `total` = poses x rays rays, and their pose derivatives where `jacobians` is not 0.

    All uint64 are addresses on the device: `next` an int32 counter at 0 (CPU), `grid` float32 [nz][ny][nx], `camera`
    float64 (column and row spacing, principal point, distance, step), `poses` float64 [][15] (index from camera: 3x3,
    source; centre of the twist in the camera), `pixels` float32 [rays][2] or 0 for the image's own, row by row,
    `images` float32 [total], `jacobians` float32 [total][6].
    """
    march(
        wp.tid(),
        next,
        total,
        rays,
        columns,
        grid,
        nx,
        ny,
        nz,
        camera,
        poses,
        pixels,
        images,
        jacobians,
    )
