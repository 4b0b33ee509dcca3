"""The part of a CT that is registered, where it is not all of it: one segment, or a box (region of interest).

A segment is registered as a bone that moves by itself: everything around it becomes air. A box is registered as a CT
that was cut there. No coordinate moves: a pose found with a region is a pose of the CT.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtkmodules.util.numpy_support import vtk_to_numpy

from ..engine.client import EngineClient
from ..errors import InputError
from ..geometry.coordinates import transform_points
from ..geometry.se3 import Array, inverse
from .nodes import array_matrix
from .placement import attach, find_transform, get_ct_to_world, insert_transform, placed_affine, placed_from_node
from .task import Task
from .upload import ct_array, ct_stamp

SEGMENTATION, BOX = "vtkMRMLSegmentationNode", "vtkMRMLMarkupsROINode"
AIR_HU = -1000
# Air around a segment, and fewest voxels of one.
_MARGIN_MM = 5.0
_FEWEST = 100
_SLAB_BYTES = 1 << 20


@dataclass(frozen=True)
class Region:
    """A segment or a box.

    Attributes:
        node: A segmentation node, or a markups region of interest.
        segment: The segment's ID; "" for a box.
    """

    node: Any
    segment: str = ""

    @property
    def is_segment(self) -> bool:
        """Whether it is a segment."""
        return bool(self.node.IsA(SEGMENTATION))

    def stamp(self, ct: Any) -> tuple[Any, ...]:
        """Changes whenever the region or its CT changes."""
        shape = self.node.GetSegmentation() if self.is_segment else self.node
        return (*ct_stamp(ct), self.node.GetID(), self.segment, shape.GetMTime())


def segments(node: Any) -> list[tuple[str, str]]:
    """(ID, name) of the segments of a segmentation node; nothing for others."""
    if node is None or not node.IsA(SEGMENTATION):
        return []
    segmentation = node.GetSegmentation()
    return [(key, segmentation.GetSegment(key).GetName()) for key in segmentation.GetSegmentIDs()]


def checked(value: Any) -> Region | None:
    """A Region out of None, a Region, a box, or (segmentation, segment ID). Raises InputError."""
    if value is None or isinstance(value, Region):
        region = value
    elif isinstance(value, (tuple, list)) and len(value) == 2:
        region = Region(*value)
    else:
        region = Region(value)
    if region is None:
        return None
    node = region.node
    if not (node.IsA(SEGMENTATION) or node.IsA(BOX)):
        raise InputError(f"'{node.GetName()}' is no region: choose a segmentation or a region of interest (a box).")
    if region.is_segment and region.segment not in [key for key, _ in segments(node)]:
        raise InputError(f"Choose which segment of '{node.GetName()}' is to be registered.")
    return region


@dataclass(frozen=True)
class Cut:
    """The block of a CT that a region needs.

    Attributes:
        hu: A view of the CT's voxels there, [k, j, i].
        affine: (i, j, k, 1) of the block -> placed frame, mm.
        start: The block's first voxel in the CT, (i, j, k).
        labels: What says which voxels are the segment's, or None for a box.
    """

    hu: NDArray[Any]
    affine: Array
    start: tuple[int, int, int]
    labels: Labels | None

    def slab(self, begin: int, end: int) -> NDArray[Any]:
        """Voxels of some slices of the block, air outside the segment."""
        part = np.array(self.hu[begin:end])
        if self.labels is not None:
            i0, j0, k0 = self.start
            for index, plane in enumerate(part):
                inside = self.labels.inside((i0, i0 + plane.shape[1]), (j0, j0 + plane.shape[0]), k0 + begin + index)
                plane[~inside] = AIR_HU
        return part


@dataclass(frozen=True)
class Labels:
    """A segment's binary labelmap.

    Attributes:
        array: [k, j, i], not 0 inside.
        from_ct: (i, j, k, 1) of the CT -> of the labels.
    """

    array: NDArray[Any]
    from_ct: Array

    def inside(self, i: tuple[int, int], j: tuple[int, int], k: int) -> NDArray[np.bool_]:
        """Whether the CT's voxels of a part of one slice are the segment's, [j, i]: by the nearest label."""
        jj, ii = np.meshgrid(np.arange(*j), np.arange(*i), indexing="ij")
        points = self.from_ct[:3, :3] @ np.stack([ii, jj, np.full_like(ii, k)]).reshape(3, -1) + self.from_ct[:3, 3:]
        index = np.rint(points).astype(int)
        there = ((index >= 0) & (index < np.array(self.array.shape[::-1])[:, None])).all(0)
        x, y, z = np.where(there, index, 0)
        return np.asarray(there & (self.array[z, y, x] != 0)).reshape(ii.shape)


def cut(ct: Any, region: Region) -> Generator[None, None, Cut]:
    """Steps to the block of a CT that a region needs. Raises InputError where there is nothing of it."""
    hu, affine = ct_array(ct), placed_affine(ct)
    labels = None
    if region.is_segment:
        labels = _labels(region, affine)
        corners = yield from _segment_corners(labels)
        margin = np.ceil(_MARGIN_MM / np.linalg.norm(affine[:3, :3], axis=0))
    else:
        corners, margin = _box_corners(region.node, ct, affine), np.zeros(3)
    size = np.array(hu.shape[::-1])
    start = np.clip(np.floor(corners.min(0) - margin), 0, size).astype(int)
    stop = np.clip(np.ceil(corners.max(0) + margin) + 1, 0, size).astype(int)
    if (stop - start < 2).any():
        raise InputError(f"The region '{region.node.GetName()}' lies outside the CT.")
    (i0, j0, k0), (i1, j1, k1) = start.tolist(), stop.tolist()
    shifted = affine.copy()
    shifted[:3, 3] = transform_points(affine, start.astype(float))
    return Cut(hu[k0:k1, j0:j1, i0:i1], shifted, (i0, j0, k0), labels)


@dataclass(frozen=True)
class Held:
    """A region that the engine holds.

    Attributes:
        key: The engine's name of it.
        stamp: What it was when it was handed over; see :meth:`Region.stamp`.
        files: Its slabs' files.
    """

    key: str
    stamp: tuple[Any, ...]
    files: tuple[dict[str, str], ...]


def load(task: Task, client: EngineClient, ct: Any, region: Region) -> Generator[None, None, Held]:
    """Steps that hand a region to the engine as a CT of its own: `held = yield from load(...)`."""
    _take_along(region.node, ct)
    stamp = region.stamp(ct)
    block = yield from cut(ct, region)
    thick = max(1, _SLAB_BYTES // block.hu[0].nbytes)
    slabs, voxels = [], 0
    for begin in range(0, len(block.hu), thick):
        slab = block.slab(begin, begin + thick)
        voxels += int((slab > AIR_HU).sum())
        yield
        slabs.append(client.arrays.save(slab))
        yield
    if voxels < _FEWEST:
        raise InputError(f"The region '{region.node.GetName()}' has {voxels} voxels: too little to be registered.")
    answer = yield from task.ask(client, "load_ct", {"slabs": slabs, "affine": block.affine.tolist(), "name": ""})
    return Held(answer["ct"], stamp, tuple(slabs))


def inverse_of(matrix: Array) -> Array:
    """The inverse of a 4x4 affine map."""
    return np.asarray(np.linalg.inv(matrix), float)


def _take_along(node: Any, ct: Any) -> None:
    """Put a region under the CT's transform, where it is: it belongs to the patient."""
    transform = insert_transform(ct)
    if find_transform(node) is None:
        matrix = inverse(get_ct_to_world(transform))
        if not np.allclose(matrix, np.eye(4)) and node.IsA(BOX):
            move = vtk.vtkMatrix4x4()
            move.DeepCopy(matrix.ravel().tolist())
            node.ApplyTransformMatrix(move)
        attach(node, transform)


def _labels(region: Region, affine: Array) -> Labels:
    """A segment's labels beside the voxels of a CT."""
    image, name = slicer.vtkOrientedImageData(), region.node.GetName()
    # Of a labelmap that segments share, too, this gives the one segment, as ones.
    if not region.node.GetBinaryLabelmapRepresentation(region.segment, image):
        raise InputError(f"'{name}' has no binary labelmap: create one in the module Segmentations.")
    scalars = image.GetPointData().GetScalars()
    if scalars is None:
        raise InputError(f"The chosen segment of '{name}' is empty.")
    to_world, first = vtk.vtkMatrix4x4(), np.eye(4)
    image.GetImageToWorldMatrix(to_world)
    first[:3, 3] = image.GetExtent()[::2]
    to_placed = placed_from_node(region.node) @ array_matrix(to_world) @ first
    array = vtk_to_numpy(scalars).reshape(image.GetDimensions()[::-1])
    return Labels(array, inverse_of(to_placed) @ affine)


def _segment_corners(labels: Labels) -> Generator[None, None, Array]:
    """Steps to the corners of a segment's bounding box in the CT's voxels: (8, 3)."""
    slices, rows, columns = [], np.zeros(labels.array.shape[1], bool), np.zeros(labels.array.shape[2], bool)
    for k, plane in enumerate(labels.array):
        inside = plane != 0
        if inside.any():
            slices.append(k)
            rows |= inside.any(1)
            columns |= inside.any(0)
        if k % 16 == 0:
            yield
    if not slices:
        raise InputError("The chosen segment is empty.")
    ends = [(w[0], w[-1]) for w in (np.flatnonzero(columns), np.flatnonzero(rows), slices)]
    corners = [[i, j, k] for i in ends[0] for j in ends[1] for k in ends[2]]
    return transform_points(inverse_of(labels.from_ct), np.array(corners, float))


def _box_corners(node: Any, ct: Any, affine: Array) -> Array:
    """The corners of a box in the CT's voxels: (8, 3)."""
    half = np.array(node.GetSize(), float) / 2
    if not (half > 0).all():
        raise InputError(f"The region '{node.GetName()}' is not drawn yet.")
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * half
    world = transform_points(array_matrix(node.GetObjectToWorldMatrix()), corners)
    placed = transform_points(inverse(get_ct_to_world(insert_transform(ct))), world)
    return transform_points(inverse_of(affine), placed)
