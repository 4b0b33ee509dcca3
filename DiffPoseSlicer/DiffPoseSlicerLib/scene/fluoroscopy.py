"""Fluoroscopy nodes: which volumes can be one, their pixels, and the C-arm geometry stored on them."""

from __future__ import annotations

import functools
import json
import zlib
from typing import Any

import numpy as np
import slicer.util
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.carm import CArm
from ..imaging.intensity import to_attenuation
from ..imaging.orientation import to_camera
from .nodes import PREFIX, get_data, set_data
from .task import Steps

CARM, SOURCES, NOTES = "carm", "carmSources", "notes"
_COARSE_PIXELS = 96


def browser_of(node: Any) -> tuple[Any, Any]:
    """The browser whose current frame a node is, and the sequence behind it; (None, None) for a single image."""
    scene = node.GetScene()
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode") if scene else 0):
        browser = scene.GetNthNodeByClass(index, "vtkMRMLSequenceBrowserNode")
        sequence = browser.GetSequenceNode(node)
        if sequence is not None:
            return browser, sequence
    return None, None


def record(node: Any) -> Any:
    """The node that keeps what belongs to a fluoroscopy.

    It is the sequence where the node is a sequence's current frame: Slicer replaces the frame's own attributes whenever
    another one is shown, and the C-arm's geometry is one for the run.
    """
    sequence = browser_of(node)[1]
    return node if sequence is None else sequence


def is_fluoroscopy(node: Any) -> bool:
    """Whether a node can be a fluoroscopy: a volume of one slice, with some pixels."""
    if node is None or not node.IsA("vtkMRMLScalarVolumeNode") or node.GetImageData() is None:
        return False
    columns, rows, slices = node.GetImageData().GetDimensions()
    return slices == 1 and min(rows, columns) >= 2


def stored_pixels(node: Any) -> NDArray[Any]:
    """The pixels of a fluoroscopy as they are stored, [row, column], row 0 at the top; colours become grey.

    Raises:
        InputError: the node is no single-slice volume.
    """
    if not is_fluoroscopy(node):
        name = f"'{node.GetName()}'" if node is not None else "Nothing chosen"
        raise InputError(f"{name} is no fluoroscopy: choose an image of one slice, or a sequence's current frame.")
    pixels = slicer.util.arrayFromVolume(node)[0]
    if pixels.ndim == 3:  # colour, as Slicer loads most PNG and JPEG files; a fourth component is opacity
        pixels = pixels[..., :3].mean(-1)
    return pixels


def get_carm(node: Any) -> CArm | None:
    """The geometry stored on a fluoroscopy, or None where there is none (or it is damaged)."""
    return _parsed(record(node).GetAttribute(PREFIX + CARM) or "")


@functools.lru_cache(maxsize=32)
def _parsed(text: str) -> CArm | None:
    """A geometry out of an attribute; asked for at every look at the panel."""
    try:
        return CArm.from_json(json.loads(text), "stored geometry")
    except (InputError, ValueError, AttributeError):
        return None


def set_carm(node: Any, carm: CArm, sources: dict[str, str] | None = None) -> None:
    """Store a geometry on a fluoroscopy.

    Args:
        node: the fluoroscopy.
        carm: its geometry.
        sources: where each value comes from, by its name in carm.json, in words for the user ("DICOM", "typed").

    Raises:
        InputError: the image has another size than the geometry says.
    """
    rows, columns = stored_pixels(node).shape
    turned = carm.rotation in (90, 270)
    if (rows, columns) != (carm.image_size[::-1] if turned else carm.image_size):
        raise InputError(
            f"The geometry is for an image of {carm.image_size[0]} rows and {carm.image_size[1]} columns; "
            f"'{node.GetName()}' has {rows} x {columns}."
        )
    set_data(record(node), CARM, carm.to_json())
    set_data(record(node), SOURCES, sources or {})


def get_sources(node: Any) -> dict[str, str]:
    """Where each value of the stored geometry comes from, as :func:`set_carm` was told."""
    return get_data(record(node), SOURCES) or {}


def set_notes(node: Any, notes: list[str]) -> None:
    """Store what the user must know of a fluoroscopy: sentences."""
    set_data(record(node), NOTES, notes or None)


def get_notes(node: Any) -> list[str]:
    """What :func:`set_notes` stored."""
    return get_data(record(node), NOTES) or []


def need_carm(node: Any) -> CArm:
    """The geometry stored on a fluoroscopy.

    Raises:
        InputError: there is none.
    """
    stored_pixels(node)
    carm = get_carm(node)
    if carm is None:
        raise InputError(
            f"The geometry of '{node.GetName()}' is not known: give the source-to-detector distance and the pixel "
            "size in step Images."
        )
    return carm


def shown_image(node: Any) -> Steps:
    """Steps to a fluoroscopy as it is shown: (pixels in the camera's frame, bone bright; whether its user knows bone
    dark).

    What the stored values mean is looked up on a coarse copy, where nobody has stated it: the registration looks at the
    whole image, which takes longer than Slicer may wait.

    Raises:
        InputError: no fluoroscopy, one without geometry.
    """
    carm, stored = need_carm(node), stored_pixels(node)
    step = max(1, max(stored.shape) // _COARSE_PIXELS)
    coarse = np.asarray(stored[::step, ::step], float)
    intensity = carm.intensity
    if intensity is None:
        intensity = to_attenuation(coarse, None, "", None)[1].intensity
        yield
    pixels = to_camera(stored, carm)
    if intensity != "transmission":
        return as_float(pixels), False
    white = max(float(np.quantile(coarse, 0.999)), 1e-6)
    yield
    return as_float(np.log(white) - np.log(np.maximum(pixels, white * 1e-4), dtype=np.float32)), True


def content_stamp(node: Any) -> tuple[Any, ...]:
    """Changes whenever a volume's pixels or place change, without looking at the pixels."""
    image = node.GetImageData()
    return (node.GetID(), image.GetMTime() if image is not None else 0, image.GetDimensions() if image else ())


def frame_count(node: Any) -> int:
    """How many frames the run of a fluoroscopy has; 1 for a single image, 0 for none."""
    if node is None:
        return 0
    frames = browser_of(node)[1]
    return 1 if frames is None else int(frames.GetNumberOfDataNodes())


def pixel_stamp(node: Any) -> tuple[int, int]:
    """Tells one image of a node from another: which frame of its run it is, and a checksum of its pixels."""
    browser = browser_of(node)[0]
    frame = 0 if browser is None else int(browser.GetSelectedItemNumber())
    return frame, zlib.crc32(np.ascontiguousarray(slicer.util.arrayFromVolume(node)).data)


def as_float(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Pixels as contiguous float32."""
    return np.ascontiguousarray(pixels, np.float32)
