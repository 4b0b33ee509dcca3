"""What DICOM says stored values are: modality LUT, rescale, and their relation to the X-ray beam's intensity.

PixelIntensityRelationship (0028,1040) is LIN, LOG or DISP; PixelIntensityRelationshipSign (0028,1041) is 1 where lower
values mean less intensity. Photometric interpretation, window, VOI and presentation LUTs describe display only: they
change nothing here, except as the last hint for display-processed images that state no sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dicom import Lookup, floats, get, tag_name, text, whole


@dataclass(frozen=True)
class Relation:
    """How values relate to the beam's intensity.

    Attributes:
        kind: "LIN" (proportional), "LOG" (to its logarithm) or "DISP" (processed for display, monotonic at best).
        intensity: "transmission" (values rise with intensity), "attenuation", or None where nobody says.
        why: In words, for the note.
    """

    kind: str
    intensity: str | None
    why: str


def modality_values(values: NDArray[Any], lookup: Lookup) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Stored values through the modality LUT or the rescale slope and intercept, and notes."""
    sequence = lookup.value("ModalityLUTSequence")
    if sequence is not None and len(sequence):
        table = _table(sequence[0])
        if table is not None:
            first, entries = table
            return entries[np.clip(values.astype(np.int64) - first, 0, len(entries) - 1)], (
                f"{tag_name('ModalityLUTSequence')} was applied.",
            )
    slope, intercept = lookup.number("RescaleSlope", -1e6, 1e6), lookup.number("RescaleIntercept", -1e9, 1e9)
    if slope is None or slope == 0 or (slope, intercept or 0) == (1, 0):
        return values, ()
    scaled = values.astype(np.float32) * np.float32(slope) + np.float32(intercept or 0)
    return scaled, (f"Rescaled by {slope:g} and {intercept or 0:g} ({tag_name('RescaleSlope')}).",)


def _table(item: Any) -> tuple[int, NDArray[Any]] | None:
    """(first mapped value, entries) of a LUT item, or None where it is damaged."""
    descriptor = floats(get(item, "LUTDescriptor", []))
    data = get(item, "LUTData")
    if len(descriptor) != 3 or data is None:
        return None
    count = int(descriptor[0]) or 65536
    if isinstance(data, (bytes, bytearray)):
        entries = np.frombuffer(data, "<u2" if len(data) >= 2 * count else "u1")
    else:
        try:
            entries = np.asarray(data)
        except (TypeError, ValueError):
            return None
    if entries.ndim != 1 or len(entries) < 2 or entries.dtype.kind not in "iu":
        return None
    first = int(descriptor[1])
    return (first - 65536 if first > 32767 and count < 32768 else first), entries[:count]


def optical_density(values: NDArray[Any], lookup: Lookup) -> NDArray[Any] | None:
    """Line integrals, where RescaleType says that values are thousandths of optical density, log10(I0 / I)."""
    if lookup.text("RescaleType") != "OD" or lookup.text("PixelIntensityRelationship") != "LOG":
        return None
    return (values.astype(np.float32) * np.float32(np.log(10) / 1000)).astype(np.float32)


def to_linear(values: NDArray[Any], lookup: Lookup) -> NDArray[Any] | None:
    """Values made proportional to the intensity by PixelIntensityRelationshipLUTSequence, where it offers that."""
    for item in lookup.value("PixelIntensityRelationshipLUTSequence") or []:
        if text(item, "LUTFunction") == "TO_LINEAR":
            table = _table(item)
            if table is not None:
                return table[1][np.clip(values.astype(np.int64) - table[0], 0, len(table[1]) - 1)]
    return None


def relation(lookup: Lookup) -> Relation:
    """What the file says of its values."""
    kind = lookup.text("PixelIntensityRelationship")
    sign = lookup.number("PixelIntensityRelationshipSign", -1, 1)
    modality = text(lookup.dataset, "Modality")
    stated = f"{tag_name('PixelIntensityRelationship')} is {kind}"
    if sign:
        direction = "transmission" if sign > 0 else "attenuation"
        name = f"{stated} and its sign {sign:+.0f}" if kind else f"its sign is {sign:+.0f}"
        return Relation(kind if kind in ("LIN", "LOG") else "DISP", direction, name)
    if kind in ("LIN", "LOG"):
        return Relation(kind, "transmission", stated)
    photometric = text(lookup.dataset, "PhotometricInterpretation")
    if modality in ("DX", "CR") and photometric in ("MONOCHROME1", "MONOCHROME2"):
        # A radiograph made for display shows bone white: in MONOCHROME1 that is low, in MONOCHROME2 high.
        direction = "transmission" if photometric == "MONOCHROME1" else "attenuation"
        return Relation("DISP", direction, f"it is a {modality} image in {photometric}, which shows bone white")
    return Relation("DISP", None, "")


def full_scale(lookup: Lookup, bits: int) -> int:
    """The highest value that the bits stored can hold."""
    signed = whole(lookup.dataset, "PixelRepresentation") == 1
    return (1 << (bits - 1 if signed else bits)) - 1
