"""Resource files that Slicer's C++ logics read from a module's share folder, written from scratch for the host."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

# name -> opacity (HU, 0..1) and colour (HU, r, g, b) points. The names are those of Slicer's own presets that CT
# modules ask for; the curves are the host's.
_PRESETS: dict[str, tuple[list[tuple[float, float]], list[tuple[float, float, float, float]]]] = {
    "CT-Bone": ([(-3024, 0), (150, 0), (350, 0.3), (3071, 0.8)], [(150, 0.6, 0.2, 0.15), (500, 1, 0.95, 0.85)]),
    "CT-AAA": ([(-3024, 0), (140, 0), (180, 0.4), (700, 0.8)], [(140, 0.6, 0.1, 0.1), (400, 1, 0.9, 0.7)]),
    "CT-Muscle": ([(-3024, 0), (-150, 0), (50, 0.3), (3071, 0.8)], [(-100, 0.5, 0.2, 0.15), (200, 1, 0.9, 0.8)]),
    "CT-X-ray": ([(-3024, 0), (-600, 0), (0, 0.006), (1500, 0.05)], [(-3024, 1, 1, 1), (3071, 1, 1, 1)]),
    "MR-Default": ([(0, 0), (40, 0), (160, 0.3), (1000, 0.6)], [(0, 0.2, 0.1, 0.1), (300, 0.9, 0.9, 0.8)]),
}


def write(folder: Path) -> None:
    """Write ``presets.xml``, the volume rendering presets, into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    root = ElementTree.Element("MRML")
    for name, (opacity, colour) in _PRESETS.items():
        attributes = {
            "name": name,
            "scalarOpacity": _points(opacity),
            "colorTransfer": _points(colour),
            "gradientOpacity": _points([(0, 1), (255, 1)]),
            "effectiveRange": f"{opacity[1][0]} {opacity[-1][0]}",
            "interpolation": "1",
            "shade": "1",
            "ambient": "0.2",
            "diffuse": "0.9",
            "specular": "0.2",
            "specularPower": "10",
        }
        ElementTree.SubElement(root, "VolumeProperty", attributes)
    ElementTree.ElementTree(root).write(folder / "presets.xml", encoding="UTF-8", xml_declaration=True)


def _points(points: Sequence[tuple[float, ...]]) -> str:
    """A transfer function in MRML's notation: how many numbers follow, then the numbers."""
    numbers = [number for point in points for number in point]
    return " ".join(f"{number:g}" for number in [len(numbers), *numbers])


def write_terminologies(folder: Path) -> None:
    """Write minimal terminology and anatomic region contexts: without them the logic reports load errors."""
    folder.mkdir(parents=True, exist_ok=True)
    tissue = _code("SCT", "85756007", "Tissue") | {"recommendedDisplayRGBValue": [128, 174, 128]}
    category = _code("SCT", "85756007", "Tissue") | {"showAnatomy": "true", "Type": [tissue]}
    terminology = {
        "SegmentationCategoryTypeContextName": "Segmentation category and type - 3D Slicer General Anatomy list",
        "@schema": "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/segment-context-schema.json#",
        "SegmentationCodes": {"Category": [category]},
    }
    regions = {
        "AnatomicContextName": "Anatomic codes - DICOM master list",
        "@schema": "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/anatomic-context-schema.json#",
        "AnatomicCodes": {"AnatomicRegion": [_code("SCT", "51185008", "Chest")]},
    }
    names = {
        "SegmentationCategoryTypeModifier-SlicerGeneralAnatomy.term.json": terminology,
        "SegmentationCategoryTypeModifier-DICOM-Master.term.json": terminology,
        "AnatomicRegionAndModifier-DICOM-Master.term.json": regions,
    }
    for name, content in names.items():
        (folder / name).write_text(json.dumps(content))


def _code(scheme: str, value: str, meaning: str) -> dict[str, Any]:
    return {"CodingSchemeDesignator": scheme, "CodeValue": value, "CodeMeaning": meaning}
