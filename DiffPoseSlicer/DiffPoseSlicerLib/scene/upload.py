"""Getting a CT node's voxels to the engine in slabs, so that Slicer never waits for a whole volume."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer.util
from numpy.typing import NDArray

from ..engine.client import EngineClient
from ..errors import InputError
from ..geometry.se3 import Array
from ..imaging.ct import CTVolume
from .fluoroscopy import content_stamp
from .placement import placed_affine
from .task import Task

# One slab is about this many bytes: a few ms to write and hash.
SLAB_BYTES = 1 << 18
# Voxels of the overview that is gathered on the way, mm.
OVERVIEW_MM = 4.0


@dataclass(frozen=True, eq=False)
class Loaded:
    """A CT as the engine holds it.

    Attributes:
        key: What requests name it by.
        stamp: Changes with the node's voxels or place.
        affine: (i, j, k, 1) -> placed frame, mm.
        center: Midpoint of the voxel-centre grid, placed frame, mm.
        notes: What the engine says of it.
        files: The slabs' files.
        digest: SHA-256 over voxels, shape and affine.
        overview: The CT in blocks of about OVERVIEW_MM, HU [k, j, i]; `factors` voxels (i, j, k) a block.
        factors: See `overview`.
    """

    key: str
    stamp: tuple[Any, ...]
    affine: Array
    center: Array
    notes: tuple[str, ...]
    files: tuple[dict[str, str], ...]
    digest: str
    overview: NDArray[np.float32]
    factors: tuple[int, int, int]


def ct_array(node: Any) -> NDArray[Any]:
    """A view of a CT node's voxels [k, j, i].

    Raises:
        InputError: the node is no CT: not a volume, one slice, or several values a voxel.
    """
    if node is None:
        raise InputError("No CT is chosen: choose one in step Images.")
    image = node.GetImageData() if node.IsA("vtkMRMLScalarVolumeNode") else None
    if image is None:
        raise InputError(f"'{node.GetName()}' is no CT: it holds no voxels.")
    if image.GetNumberOfScalarComponents() != 1 or min(image.GetDimensions()) < 2:
        raise InputError(
            f"'{node.GetName()}' is no CT: it has {' x '.join(map(str, image.GetDimensions()))} voxels of "
            f"{image.GetNumberOfScalarComponents()} values, where a volume of single values is needed."
        )
    return slicer.util.arrayFromVolume(node)


def ct_center(node: Any) -> Array:
    """Midpoint of a CT node's voxel-centre grid in the placed frame, mm: (3,)."""
    size = np.array(ct_array(node).shape[::-1])
    return (placed_affine(node) @ [*(size - 1) / 2, 1.0])[:3]


def ct_volume(node: Any) -> CTVolume:
    """A CT node as the library's own object, in the placed frame; its voxels are copied at once.

    Raises:
        InputError: the node is no CT, or a transform above it is not linear.
    """
    return CTVolume.from_array(ct_array(node), placed_affine(node))


def ct_stamp(node: Any) -> tuple[Any, ...]:
    """Changes whenever a CT's voxels or its place below "CT to C-arm" change."""
    return (*content_stamp(node), placed_affine(node).tobytes())


def upload(task: Task, client: EngineClient, node: Any) -> Generator[None, None, Loaded]:
    """Steps that hand a CT node to the engine: `loaded = yield from upload(...)`."""
    hu, affine, stamp = ct_array(node), placed_affine(node), ct_stamp(node)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    fi, fj, fk = (max(1, round(OVERVIEW_MM / s)) for s in spacing)
    nk = len(hu)
    digest = hashlib.sha256(np.array(hu.shape, "<i8").tobytes() + affine.tobytes() + hu.dtype.str.encode())
    # A slab is a whole number of overview blocks thick, where that is not too much at once.
    thick = max(1, SLAB_BYTES // (hu[0].nbytes * fk)) * fk
    files: list[dict[str, str]] = []
    overview: list[NDArray[np.float32]] = []
    for k in range(0, nk, thick):
        slab = np.ascontiguousarray(hu[k : k + thick])
        if slab.dtype.kind == "f" and not np.isfinite(slab).all():
            raise InputError(f"'{node.GetName()}' has voxels that are not finite in slice {k} or the next; repair it.")
        files.append(client.arrays.save(slab))
        yield
        digest.update(slab.data)
        yield
        overview.append(_blocks(slab, fi, fj, fk))
        yield
        if ct_stamp(node) != stamp:
            raise InputError(f"'{node.GetName()}' has changed while it was handed to the engine; try again.")
    key = digest.hexdigest()
    answer = yield from task.ask(client, "load_ct", {"slabs": files, "affine": affine.tolist(), "key": key, "name": ""})
    return Loaded(
        key=answer["ct"],
        stamp=stamp,
        affine=affine,
        center=np.array(answer["center"], float),
        notes=tuple(answer.get("notes", ())),
        files=tuple(files),
        digest=key,
        overview=np.concatenate(overview),
        factors=(fi, fj, fk),
    )


def _blocks(slab: NDArray[Any], fi: int, fj: int, fk: int) -> NDArray[np.float32]:
    """Block means of a slab; what does not fill a block in i or j is left out."""
    nk, nj, ni = slab.shape
    nj, ni = nj // fj * fj, ni // fi * fi
    whole = slab[:, :nj, :ni].reshape(nk, nj // fj, fj, ni // fi, fi).mean((2, 4), dtype=np.float32)
    starts = np.arange(0, nk, fk)
    counts = np.minimum(fk, nk - starts)[:, None, None]
    return np.asarray(np.add.reduceat(whole, starts, axis=0) / counts, np.float32)
