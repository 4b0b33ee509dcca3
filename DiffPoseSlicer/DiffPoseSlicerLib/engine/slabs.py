"""Handing a CT in memory to the engine, slab by slab, so that a timer can do it without anybody noticing."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import ArrayFolder

_SLAB_BYTES = 4 << 20


class SlabWriter:
    """Writes a CT into an array folder in steps of a few milliseconds.

        writer = SlabWriter(client.arrays, hu, affine)
        while writer.step(): ...
        client.submit("load_ct", writer.params())

    Args:
        arrays: the client's folder.
        hu: Hounsfield units [k, j, i]; may be a view of memory that somebody else owns.
        affine: 4x4, (i, j, k, 1) -> RAS mm.
        name: for display, never a patient's.
        slab_bytes: about how much a step writes.
    """

    def __init__(
        self, arrays: ArrayFolder, hu: NDArray[Any], affine: ArrayLike, name: str = "", slab_bytes: int = _SLAB_BYTES
    ) -> None:
        self._arrays, self._hu, self._name = arrays, hu, name
        self._affine = np.asarray(affine, float)
        self._thickness = max(1, slab_bytes // max(1, hu[:1].nbytes))
        self._slabs: list[dict[str, str]] = []
        self._done = 0
        self._digest = hashlib.sha256(repr((hu.shape, hu.dtype.str, self._affine.tolist())).encode())

    @property
    def fraction(self) -> float:
        """How much is written, 0 to 1."""
        return self._done / len(self._hu)

    def step(self) -> bool:
        """Write the next slab; whether there are more."""
        slab = np.ascontiguousarray(self._hu[self._done : self._done + self._thickness])
        if len(slab):
            self._digest.update(slab.tobytes())
            self._slabs.append(self._arrays.save(slab))
            self._done += len(slab)
        return self._done < len(self._hu)

    def params(self) -> dict[str, Any]:
        """What to send with "load_ct" once every slab is written."""
        return {
            "slabs": self._slabs,
            "affine": self._affine.tolist(),
            "name": self._name,
            "key": self._digest.hexdigest(),
        }

    def discard(self) -> None:
        """Delete what was written, where it is not wanted any more."""
        for slab in self._slabs:
            self._arrays.remove(slab)
