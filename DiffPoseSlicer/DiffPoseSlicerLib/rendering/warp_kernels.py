"""The fused kernel: one pass along each ray gives the line integral and its derivatives. One text for CPU and CUDA.

Samples lie at (m + 1/2) h mm from the source, m a whole number, whatever part of the ray meets the volume. The grid is
padded with air, so the interpolant is zero wherever a ray enters or leaves, and clipping has no part in the derivative.
The derivative returned is that of the line integral: the part of the gradient along the ray, which integrates to zero,
is taken out, where the derivative of the sum over samples would add the derivative of the quadrature error. That error
varies quickly as samples slide through voxels: by depth its derivative is as large as the true one.

Derivatives come from two sums over the samples, of the interpolant's gradient g and of g times the distance from the
source: for an anatomy that turns and shifts by (omega, v) about c in camera axes, a sample at p sees d(mu)/dv = -g and
d(mu)/domega = -(p - c) x g, and p is distance times the ray's direction.

How it is fast on a CPU, measured in docs/rendering.md:

- Sixteen rays, 4 x 4 pixels, march abreast, one in each lane of a vector: they read the same few cache lines.
- The grid is stored as 16-bit multiples of a unit: half the memory traffic, and one 32-bit load brings two neighbours
  along i. The rounding, at most 1/131070 of the largest value, is below that of float32 sums.
- No branch in the loop: rays that start later or end earlier than their neighbours are masked, in a loop of its own.

Each lane's arithmetic is that of its ray alone, so a pixel does not depend, to the last bit, on those rendered with it.
"""

from __future__ import annotations

import platform

import warp as wp

MODULE = "diffposeslicer_trilinear"

# On CUDA a "packet" is one ray in one thread. Plain names are macros where the two differ only in spelling.
_LANES = r"""
#ifdef __CUDA_ARCH__
    #define LANES 1
    #define SIDE 1
    typedef float vfloat;
    typedef int vint;
    #define TO_INT(x) ((int)(x))
    #define TO_FLOAT(x) ((float)(x))
    #define KEEP(mask, x) ((mask) ? (x) : 0.f)
    #define CLAMP(x, high) ((x) < 0.f ? 0.f : (x) > (high) ? (high) : (x))
    #define SET(vector, array) vector = array[0]
    #define GET(array, vector) array[0] = vector
#else
    #define LANES 16
    #define SIDE 4
    typedef float vfloat __attribute__((ext_vector_type(16)));
    typedef int vint __attribute__((ext_vector_type(16)));
    #define TO_INT(x) __builtin_convertvector(x, vint)
    #define TO_FLOAT(x) __builtin_convertvector(x, vfloat)
    #define KEEP(mask, x) ((vfloat)((vint)(x) & (mask)))
    #define CLAMP(x, high) __builtin_elementwise_max(__builtin_elementwise_min(x, (vfloat)(high)), (vfloat)0.f)
    #define SET(vector, array) __builtin_memcpy(&vector, array, sizeof(vector))
    #define GET(array, vector) __builtin_memcpy(array, &vector, sizeof(vector))
#endif
    // The 16-bit values at p[o] (low half) and p[o + 1] (high half).
    auto pair = [](const unsigned short* p, vint o) -> vint {
    #if defined(__CUDA_ARCH__)
        return (int)p[o] | (int)p[o + 1] << 16;
    #elif defined(__AVX512F__)
        return (vint)__builtin_ia32_gathersiv16si((vint)0, p, o, (short)-1, 2);
    #elif defined(__AVX2__)
        typedef int half __attribute__((vector_size(32)));
        half index[2], value[2];
        __builtin_memcpy(index, &o, sizeof(o));
        for (int n = 0; n < 2; ++n)
            value[n] = __builtin_ia32_gatherd_d256((half){0}, (const int*)p, index[n], (half){0} - 1, 2);
        vint w;
        __builtin_memcpy(&w, value, sizeof(w));
        return w;
    #else
        vint w;
        for (int l = 0; l < LANES; ++l) {
            int two;
            __builtin_memcpy(&two, p + o[l], 4);
            w[l] = two;
        }
        return w;
    #endif
    };
    struct Yes { enum { on = 1 }; };
    struct No { enum { on = 0 }; };
"""

_PROJECT = (
    _LANES
    + r"""
    const unsigned short* mu = (const unsigned short*)grid;
    const double* c = (const double*)camera;
    const double column = c[0], row = c[1], u0 = c[2], v0 = c[3], distance = c[4], h = c[5], unit = c[6];
    const int sy = nx, sz = nx * ny;
    // The interpolant is all but zero in the outermost thousandth of a voxel: leave it to rounding errors.
    const double low = 1e-3, high[3] = {nx - 1.001, ny - 1.001, nz - 1.001};
    const float high_x = high[0], high_y = high[1], high_z = high[2];
    const int rows = rays / columns, across = (columns + SIDE - 1) / SIDE;
    const int packets = pixels ? (rays + LANES - 1) / LANES : across * ((rows + SIDE - 1) / SIDE);

    auto packet = [&](long long item) {
        const long long b = item / packets;
        const int first = (int)(item - b * packets);
        const double* pose = (const double*)poses + 16 * b;
        const double origin = pose[15], t0 = (origin + 0.5) * h;

        // Which pixels, and which rays.
        double u[LANES], v[LANES], rx[LANES], ry[LANES], rz[LANES], length[LANES];
        double ex[LANES], ey[LANES], ez[LANES], start[LANES], number[LANES];
        int where[LANES];
        if (pixels) {
            for (int l = 0; l < LANES; ++l) {
                const int p = first * LANES + l, q = p < rays ? p : rays - 1;
                u[l] = ((const float*)pixels)[2 * q];
                v[l] = ((const float*)pixels)[2 * q + 1];
                where[l] = p < rays ? p : -1;
            }
        } else {
            const int left = first % across * SIDE, top = first / across * SIDE;
            for (int l = 0; l < LANES; ++l) {
                const int i = left + l % SIDE, j = top + l / SIDE;
                u[l] = i;
                v[l] = j;
                where[l] = i < columns && j < rows ? j * columns + i : -1;
            }
        }
        // Which samples of each ray: `number` from sample `start` on.
        for (int l = 0; l < LANES; ++l) {
            const double qx = (u[l] - u0) * column, qy = (v[l] - v0) * row;
            length[l] = sqrt(qx * qx + qy * qy + distance * distance);
            rx[l] = qx / length[l];
            ry[l] = qy / length[l];
            rz[l] = distance / length[l];
            double enter = 0, leave = length[l], e[3];
            for (int a = 0; a < 3; ++a) {
                e[a] = pose[3 * a] * rx[l] + pose[3 * a + 1] * ry[l] + pose[3 * a + 2] * rz[l];
                const double inverse = 1 / (e[a] * e[a] < 1e-24 ? 1e-12 : e[a]);
                const double t0 = (low - pose[9 + a]) * inverse, t1 = (high[a] - pose[9 + a]) * inverse;
                const double near_side = t0 < t1 ? t0 : t1, far_side = t0 < t1 ? t1 : t0;
                enter = near_side > enter ? near_side : enter;
                leave = far_side < leave ? far_side : leave;
            }
            ex[l] = e[0];
            ey[l] = e[1];
            ez[l] = e[2];
            const double m = ceil(enter / h - 0.5), n = floor(leave / h - 0.5) - m + 1;
            number[l] = n > 0 ? n : 0;
            start[l] = n > 0 ? m - origin : 0;
        }
        // All lanes march abreast, s counting samples from `origin`; in [all, some) every lane is at work.
        float x0[LANES], y0[LANES], z0[LANES], dx[LANES], dy[LANES], dz[LANES], first_s[LANES], last_s[LANES];
        int begin = 0x7fffffff, all = 0, some = 0x7fffffff, end = 0;
        for (int l = 0; l < LANES; ++l) {
            x0[l] = pose[9] + ex[l] * t0;
            y0[l] = pose[10] + ey[l] * t0;
            z0[l] = pose[11] + ez[l] * t0;
            dx[l] = ex[l] * h;
            dy[l] = ey[l] * h;
            dz[l] = ez[l] * h;
            const int from = (int)start[l], to = (int)(start[l] + number[l]);
            first_s[l] = from;
            last_s[l] = to;
            begin = from < to && from < begin ? from : begin;
            all = from > all ? from : all;
            some = to < some ? to : some;
            end = to > end ? to : end;
        }
        if (some < all) all = some = end;
        vfloat X, Y, Z, DX, DY, DZ, FIRST, LAST;
        SET(X, x0); SET(Y, y0); SET(Z, z0); SET(DX, dx); SET(DY, dy); SET(DZ, dz);
        SET(FIRST, first_s); SET(LAST, last_s);
        vfloat sum = (vfloat)0.f, g0 = sum, g1 = sum, g2 = sum, h0 = sum, h1 = sum, h2 = sum;

        auto march = [&](auto masked, auto derivatives, int from, int to) {
            for (int s = from; s < to; ++s) {
                const float t = (float)s;
                vfloat x = X + DX * t, y = Y + DY * t, z = Z + DZ * t;
                if constexpr (masked.on) {
                    x = CLAMP(x, high_x);
                    y = CLAMP(y, high_y);
                    z = CLAMP(z, high_z);
                }
                const vint i = TO_INT(x), j = TO_INT(y), k = TO_INT(z), o = k * sz + j * sy + i;
                const vfloat fx = x - TO_FLOAT(i), fy = y - TO_FLOAT(j), fz = z - TO_FLOAT(k);
                const vint w0 = pair(mu, o), w1 = pair(mu + sy, o), w2 = pair(mu + sz, o), w3 = pair(mu + sz + sy, o);
                // Eight corners; e: differences along i, f: along j, of edges and faces as they are interpolated.
                const vfloat c0 = TO_FLOAT(w0 & 0xffff), e0 = TO_FLOAT(w0 >> 16 & 0xffff) - c0;
                const vfloat c1 = TO_FLOAT(w1 & 0xffff), e1 = TO_FLOAT(w1 >> 16 & 0xffff) - c1;
                const vfloat c2 = TO_FLOAT(w2 & 0xffff), e2 = TO_FLOAT(w2 >> 16 & 0xffff) - c2;
                const vfloat c3 = TO_FLOAT(w3 & 0xffff), e3 = TO_FLOAT(w3 >> 16 & 0xffff) - c3;
                const vfloat a0 = c0 + fx * e0, f0 = c1 + fx * e1 - a0, a1 = c2 + fx * e2, f1 = c3 + fx * e3 - a1;
                const vfloat b0 = a0 + fy * f0, gz = a1 + fy * f1 - b0;
                vfloat value = b0 + fz * gz;
                const auto used = ((vfloat)t >= FIRST) & ((vfloat)t < LAST);
                if constexpr (masked.on) value = KEEP(used, value);
                sum += value;
                if constexpr (derivatives.on) {
                    const vfloat e = e0 + fy * (e1 - e0);
                    vfloat p = e + fz * (e2 + fy * (e3 - e2) - e), q = f0 + fz * (f1 - f0), r = gz;
                    if constexpr (masked.on) {
                        p = KEEP(used, p);
                        q = KEEP(used, q);
                        r = KEEP(used, r);
                    }
                    g0 += p;
                    g1 += q;
                    g2 += r;
                    h0 += p * t;
                    h1 += q * t;
                    h2 += r * t;
                }
            }
        };
        if (jacobians) {
            march(Yes{}, Yes{}, begin, all);
            march(No{}, Yes{}, all, some);
            march(Yes{}, Yes{}, some, end);
        } else {
            march(Yes{}, No{}, begin, all);
            march(No{}, No{}, all, some);
            march(Yes{}, No{}, some, end);
        }

        float integral[LANES];
        GET(integral, sum);
        float* image = (float*)images + b * rays;
        for (int l = 0; l < LANES; ++l)
            if (where[l] >= 0) image[where[l]] = integral[l] * (float)(h * unit);
        if (!jacobians) return;

        float sums[6][LANES], J[9][LANES];
        GET(sums[0], g0); GET(sums[1], g1); GET(sums[2], g2); GET(sums[3], h0); GET(sums[4], h1); GET(sums[5], h2);
        for (int l = 0; l < LANES; ++l) {
            // From index to camera axes, and from sample numbers to mm.
            const double r[3] = {rx[l], ry[l], rz[l]}, scale = h * unit;
            double g[3], w[3], along = 0, lengthwise = 0;
            for (int a = 0; a < 3; ++a) {
                g[a] = (pose[a] * sums[0][l] + pose[3 + a] * sums[1][l] + pose[6 + a] * sums[2][l]) * scale;
                w[a] = (pose[a] * sums[3][l] + pose[3 + a] * sums[4][l] + pose[6 + a] * sums[5][l]) * scale;
                w[a] = w[a] * h + t0 * g[a];
                along += g[a] * r[a];
                lengthwise += w[a] * r[a];
            }
            // Sliding the anatomy along the ray changes no line integral: see the module's text.
            for (int a = 0; a < 3; ++a) g[a] -= along * r[a];
            const double* q = pose + 12;
            J[0][l] = q[1] * g[2] - q[2] * g[1] - (r[1] * w[2] - r[2] * w[1]);
            J[1][l] = q[2] * g[0] - q[0] * g[2] - (r[2] * w[0] - r[0] * w[2]);
            J[2][l] = q[0] * g[1] - q[1] * g[0] - (r[0] * w[1] - r[1] * w[0]);
            J[3][l] = -g[0];
            J[4][l] = -g[1];
            J[5][l] = -g[2];
            // A pixel that moves turns its ray: samples keep their distance from the source.
            J[6][l] = (w[2] - lengthwise * r[2]) / length[l];
            J[7][l] = -column * (w[0] - lengthwise * r[0]) / length[l];
            J[8][l] = -row * (w[1] - lengthwise * r[1]) / length[l];
        }
        float* derivative = (float*)jacobians + b * rays * width;
        for (int l = 0; l < LANES; ++l)
            if (where[l] >= 0)
                for (int a = 0; a < width; ++a) derivative[(long long)where[l] * width + a] = J[a][l];
    };

    const long long items = packets * (total / rays);
    #ifdef __CUDA_ARCH__
    if (thread < items) packet(thread);
    #else
    // Launches on several threads share the counter; each takes packets until none is left.
    for (;;) {
        const long long item = __atomic_fetch_add((int*)next, 8, __ATOMIC_RELAXED);
        if (item >= items) break;
        for (long long i = item; i < item + 8 && i < items; ++i) packet(i);
    }
    #endif
"""
)


@wp.func_native(_PROJECT)
def _project(
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
    width: int,
) -> None: ...


@wp.kernel(enable_backward=False, module=MODULE)
def project(
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
    width: int,
) -> None:
    """Line integrals of `total` = poses x rays rays, and their derivatives where `jacobians` is not 0.

    All uint64 are addresses on the device:

    - `next`: int32 counter, 0 before the launch (CPU only);
    - `grid`: uint16 [nz][ny][nx], a voxel of zeros on every face;
    - `camera`: float64 column and row spacing, principal point (column, row), source to detector, step, unit
      of `grid`;
    - `poses`: float64 [][16], index from camera (3x3), source in index coordinates, centre of the twist in the camera,
      and the sample to count from, before any that lies in the grid;
    - `pixels`: float32 [rays][2] as (column, row), or 0 for the whole image, row by row;
    - `images`: float32 [total];
    - `jacobians`: float32 [total][width]: 6 columns by the pose, or these and 3 by source-to-detector distance and
      principal point (column, row).
    """
    _project(wp.tid(), next, total, rays, columns, grid, nx, ny, nz, camera, poses, pixels, images, jacobians, width)


if platform.machine().lower() in ("x86_64", "amd64"):
    # Clang halves 512-bit vectors unless told otherwise; the loop is a fifth slower then.
    wp.get_module(MODULE).options["cpu_compiler_flags"] = "-march=native -mprefer-vector-width=512"
