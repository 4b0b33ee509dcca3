"""The DICOM file behind a fluoroscopy node, and what the engine reads of its geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import slicer

from ..errors import InputError
from ..geometry.carm import CArm

UIDS = "DICOM.instanceUIDs"
# A fact of the engine's -> what it is the source of, by its name in carm.json.
_KEYS = {
    "source to detector": "sourceToDetector",
    "source to isocentre": "sourceToIsocenter",
    "pixel spacing": "pixelSpacing",
    "beam": "view",
}


@dataclass(frozen=True)
class Stated:
    """What a DICOM file says of the C-arm.

    Attributes:
        carm: The geometry, or None where something it needs is missing.
        view: {"view", "laoRao", "cranCaud"}, or None where the file does not say how the C-arm stood.
        sources: Where each value comes from, for the user.
        missing: What is missing, by its name in carm.json.
        notes: What the user must know, in sentences.
    """

    carm: CArm | None
    view: dict[str, Any] | None
    sources: dict[str, str]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def file_of(node: Any) -> str:
    """The DICOM file that a volume node was loaded from, "" where none is known."""
    uids = (node.GetAttribute(UIDS) or "").split() if node is not None else []
    database = getattr(slicer, "dicomDatabase", None)
    if not uids or database is None or not database.isOpen:
        return ""
    return str(database.fileForInstance(uids[0]) or "")


def stated(answer: dict[str, Any]) -> Stated:
    """The engine's answer to "read_geometry"."""
    sources = {}
    for name, _value, source in answer.get("facts", ()):
        if name in _KEYS:
            sources[_KEYS[name]] = source if source.startswith("assumed") else "DICOM"
    carm = answer.get("carm")
    return Stated(
        None if carm is None else CArm.from_json(carm, "geometry of the DICOM file"),
        answer.get("view"),
        sources,
        tuple(answer.get("missing", ())),
        tuple(answer.get("notes", ())),
    )


def need_file(node: Any) -> str:
    """The DICOM file of a node. Raises InputError where none is known."""
    path = file_of(node)
    if not path:
        raise InputError(f"'{node.GetName()}' was not loaded from Slicer's DICOM database: give its geometry yourself.")
    return path
