"""Rays on NVIDIA Warp: the CPU's cores, or a CUDA GPU."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import warp as wp
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.se3 import Array
from ..imaging.quiet import quiet
from .threads import cores, workers

wp.config.log_level = wp.LOG_ERROR  # stdout belongs to whoever runs us

# Below about this many samples a second thread costs more than it saves (0.2 ms).
_SAMPLES_PER_THREAD = 150_000
# Positions, among a launch's parameters, of those that change from call to call (the first is the launch's size).
_DYNAMIC = (2, 3, 4, 9, 10, 11, 12, 13, 14)


def cuda_devices() -> list[str]:
    """The CUDA devices Warp can use: ["cuda:0", ...]."""
    _start_warp()
    return [str(device) for device in wp.get_cuda_devices()]


def _start_warp() -> None:
    """Initialise Warp without its line on machines that have no NVIDIA driver: that is nothing to warn of."""
    with quiet():
        wp.init()


class WarpBackend:
    """One grid on one device, with everything allocated and compiled that a call needs.

    Args:
        mu: [nz, ny, nx] float32, C-contiguous, a voxel of zeros on every face.
        step: mm between samples.
        length: A typical path through the grid in mm; decides how many threads a call is worth.
        device: "cpu" or "cuda:N".
    """

    name = "warp"

    def __init__(self, mu: NDArray[np.float32], step: float, length: float, device: str) -> None:
        from .warp_kernels import project

        _start_warp()
        self.device = device
        self._samples_per_ray = max(1.0, length / step)
        self._warp_device = wp.get_device(device)
        self._cpu = self._warp_device.is_cpu
        nz, ny, nx = mu.shape
        if mu.size >= 1 << 31:
            raise InputError(f"The grid has {nx} x {ny} x {nz} voxels, more than 2^31: use a coarser level of the CT.")
        values, unit = quantised(mu)
        self._grid: Any = wp.array(values, dtype=wp.uint16, device=self._warp_device, copy=not self._cpu)
        self._camera = np.array([0, 0, 0, 0, 0, step, unit])
        self._counter = np.zeros(1, np.int32)
        self._lock = threading.Lock()
        self._pixels: dict[int, tuple[Any, Any]] = {}
        self._commands: list[Any] = [
            wp.launch(
                project,
                dim=1,
                inputs=[self._counter.ctypes.data, 0, 1, 1, self._grid.ptr, nx, ny, nz, 0, 0, 0, 0, 0, 6],
                device=self._warp_device,
                record_cmd=True,
            )
            for _ in range(cores() if self._cpu else 1)
        ]

    def project(
        self, camera: Array, poses: Array, pixels: NDArray[np.float32] | None, rays: int, columns: int, width: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Images (B, N) and Jacobians (B, N, width).

        Args:
            camera: (5,) float64: column and row spacing, principal point (column, row), source to detector.
            poses: (B, 16) float64 as the kernel takes them.
            pixels: (N, 2) or None for all.
            rays: N.
            columns: Of the whole image.
            width: Columns of the Jacobian: 0 for none, 6 for the pose, 9 for the camera's distance and principal point
                too.
        """
        shape = (len(poses), rays)
        inputs = (camera, poses, pixels, rays, columns, width)
        if self._cpu:
            images = np.empty(shape, np.float32)
            jacobians = np.empty((*shape, width), np.float32) if width else None
            self._launch_cpu(*inputs, images.ctypes.data, 0 if jacobians is None else jacobians.ctypes.data)
            return images, jacobians
        on_device: list[Any] = [wp.empty(shape, dtype=wp.float32, device=self._warp_device)]
        if width:
            on_device.append(wp.empty((*shape, width), dtype=wp.float32, device=self._warp_device))
        self._launch_cuda(*inputs, on_device[0].ptr, on_device[1].ptr if width else 0)
        return on_device[0].numpy(), on_device[1].numpy() if width else None

    def project_into(self, torch_stream: Any, images: int, jacobians: int, inputs: tuple[Any, ...]) -> None:
        """As :meth:`project` on a GPU, into arrays at these addresses, on a stream of torch, without waiting for it."""
        with wp.ScopedStream(wp.stream_from_torch(torch_stream)):
            arguments = (*inputs, images, jacobians)
            self._launch_cuda(*arguments)

    def _launch_cpu(
        self, camera: Array, poses: Array, pixels: Any, rays: int, columns: int, width: int, images: int, jacobians: int
    ) -> None:
        total = len(poses) * rays
        threads = int(min(len(self._commands), max(1, total * self._samples_per_ray / _SAMPLES_PER_THREAD)))
        commands = self._commands[:threads]
        with self._lock:
            self._camera[:5] = camera
            self._counter[0] = 0
            addresses = (self._camera.ctypes.data, poses.ctypes.data, 0 if pixels is None else pixels.ctypes.data)
            _set(commands, (total, rays, columns, *addresses, images, jacobians, width))
            workers.run([command.launch for command in commands])

    def _launch_cuda(
        self, camera: Array, poses: Array, pixels: Any, rays: int, columns: int, width: int, images: int, jacobians: int
    ) -> None:
        total = len(poses) * rays
        with self._lock:
            self._camera[:5] = camera
            host = np.concatenate([self._camera, poses.ravel()])
            inputs: Any = wp.array(host, dtype=wp.float64, device=self._warp_device)
            addresses = (inputs.ptr, inputs.ptr + self._camera.nbytes, self._pixels_on_device(pixels))
            _set(self._commands, (total, rays, columns, *addresses, images, jacobians, width))
            self._commands[0].set_dim(total)
            self._commands[0].launch()
            self._inputs = inputs  # in use until the kernel has run

    def _pixels_on_device(self, pixels: NDArray[np.float32] | None) -> int:
        if pixels is None:
            return 0
        if id(pixels) not in self._pixels:
            if len(self._pixels) >= 16:
                self._pixels.clear()
            # The host array is kept with its copy, so that its identity stays its own.
            self._pixels[id(pixels)] = (pixels, wp.array(pixels, dtype=wp.float32, device=self._warp_device))
        return self._pixels[id(pixels)][1].ptr


def _set(commands: list[Any], values: tuple[int, ...]) -> None:
    """Give launches their parameters: the ctypes values set in place, a tenth of the time of Launch.set_params."""
    for command in commands:
        for index, value in zip(_DYNAMIC, values, strict=True):
            command.params[index].value = value


def quantised(mu: NDArray[np.float32]) -> tuple[NDArray[np.uint16], float]:
    """A grid as whole multiples, up to 65535, of a unit, and the unit. Slab by slab, for a large grid's sake."""
    unit = float(mu.max()) / 65535 or 1.0
    values = np.empty(mu.shape, np.uint16)
    for slab, out in zip(mu, values, strict=True):
        np.rint(slab * np.float32(1 / unit), out=out, casting="unsafe")
    return values, unit
