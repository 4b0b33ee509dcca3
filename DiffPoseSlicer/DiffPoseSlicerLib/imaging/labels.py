"""Label maps and segmentations: which voxels of a CT belong to which structure."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..geometry.coordinates import transform_points
from .itk import array_view, image_affine, read_image
from .nifti import is_nifti, read_nifti

if TYPE_CHECKING:
    from .ct import CTVolume


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Whole numbers on a grid, 0 for nothing. Make one with :meth:`read` or :meth:`from_array`.

    Attributes:
        layers: One or several arrays [k, j, i]; segments of different layers may overlap.
        affine: 4x4, index (i, j, k, 1) -> RAS mm.
        names: Segments by name: (layer, label), where the file has names.
        name: For display.
    """

    layers: tuple[NDArray[Any], ...]
    affine: NDArray[np.float64]
    names: dict[str, tuple[int, int]] = field(default_factory=dict)
    name: str = ""

    @classmethod
    def from_array(cls, labels: ArrayLike, affine: ArrayLike) -> LabelMap:
        """A label map from whole numbers [k, j, i] and the 4x4 map from (i, j, k, 1) to RAS mm. Raises InputError."""
        return cls((_whole(np.asarray(labels), "label map"),), np.asarray(affine, float))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> LabelMap:
        """Read NIfTI, NRRD or MetaImage; Slicer's .seg.nrrd with its segments' names.

        Raises:
            InputError: missing, damaged, or not whole numbers in three dimensions.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"The label map {path.name} does not exist; check the path.")
        if is_nifti(path):
            values, affine, _ = read_nifti(path, "label map")
            return cls((_whole(values, path.name),), affine, name=path.name)
        image = read_image(path, "label map")
        if image.GetDimension() != 3:
            raise InputError(f"The label map {path.name} has {image.GetDimension()} dimensions; three are needed.")
        values = array_view(image).copy()
        layers = tuple(np.moveaxis(values, -1, 0)) if values.ndim == 4 else (values,)
        names = {}
        keys = set(image.GetMetaDataKeys())
        for number in range(len(keys)):
            if f"Segment{number}_LabelValue" not in keys:
                continue
            told = {key: image.GetMetaData(f"Segment{number}_{key}") for key in ("Name", "LabelValue", "Layer")
                    if f"Segment{number}_{key}" in keys}  # fmt: skip
            if told["LabelValue"].isdigit() and told.get("Layer", "0").isdigit():
                names[told.get("Name", told["LabelValue"])] = int(told.get("Layer", 0)), int(told["LabelValue"])
        return cls(tuple(_whole(layer, path.name) for layer in layers), image_affine(image), names, path.name)

    def mask(self, structure: str | int, ct: CTVolume) -> NDArray[np.bool_]:
        """The voxels of a CT [k, j, i] that belong to a structure, by name or label; nearest neighbour between grids.

        Raises:
            InputError: there is no such structure, or it lies outside the CT.
        """
        layer, label = self._find(structure)
        inside = self.layers[layer] == label
        if inside.shape == ct.hu.shape and np.allclose(self.affine, ct.affine, atol=1e-3):
            return inside
        found = np.zeros(ct.hu.shape, bool)
        # Only the part of the CT that the structure's box covers is looked at, slice by slice.
        where = np.argwhere(inside)[:, ::-1]
        low, high = where.min(0) - 0.5, where.max(0) + 0.5
        corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
        box = transform_points(np.linalg.inv(ct.affine) @ self.affine, corners)
        size = np.array(ct.hu.shape[::-1])
        first = np.clip(np.floor(box.min(0)), 0, size).astype(int)
        last = np.clip(np.ceil(box.max(0)) + 1, 0, size).astype(int)
        to_label = np.linalg.inv(self.affine) @ ct.affine
        j, i = np.mgrid[first[1] : last[1], first[0] : last[0]]
        for k in range(first[2], last[2]):
            index = np.rint(transform_points(to_label, np.stack([i, j, np.full_like(i, k)], -1))).astype(int)
            valid = ((index >= 0) & (index < inside.shape[::-1])).all(-1)
            x, y, z = np.where(valid[..., None], index, 0).transpose(2, 0, 1)
            found[k, first[1] : last[1], first[0] : last[0]] = valid & inside[z, y, x]
        if not found.any():
            raise InputError(f"The structure {structure} of {self.name or 'the label map'} lies outside the CT.")
        return found

    def _find(self, structure: str | int) -> tuple[int, int]:
        """(layer, label) of a name or number. Raises InputError."""
        if structure in self.names:
            return self.names[str(structure)]
        if str(structure).isdigit():
            label = int(structure)
            for number, layer in enumerate(self.layers):
                if label and (layer == label).any():
                    return number, label
        labels = sorted({int(x) for layer in self.layers for x in np.unique(layer)} - {0})
        there = ", ".join([*self.names, *map(str, labels[:40])])
        raise InputError(f"There is no structure {structure!r} in {self.name or 'the label map'}; there are {there}.")


def _whole(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Labels as integers. Raises InputError."""
    if values.ndim != 3:
        raise InputError(f"The label map {name} has shape {values.shape}: whole numbers [k, j, i] are needed.")
    if values.dtype.kind == "f":
        whole = np.rint(values)
        if not np.array_equal(whole, values):
            raise InputError(f"The label map {name} holds fractions, where whole numbers are needed.")
        values = whole.astype(np.int32)
    if values.dtype.kind not in "iub":
        raise InputError(f"The label map {name} holds {values.dtype} values, where whole numbers are needed.")
    return values
