"""The C-arm geometry that a DICOM X-ray carries, and where each number of it comes from.

Rules (attribute names and sections are those of PS3.3 and PS3.17):

- Source to detector: DistanceSourceToDetector; else DistanceSourceToPatient x EstimatedRadiographicMagnificationFactor.
- Source to isocentre: DistanceSourceToIsocenter, DistanceSourceToPatient, else source to detector / magnification.
- Pixel spacing at the detector: ImagerPixelSpacing; else DetectorElementSpacing x DetectorBinning; else PixelSpacing x
  magnification where PixelSpacingCalibrationType says GEOMETRY (it is then stated at the patient); else the field of
  view over the image. PixelSpacing alone is never taken for the spacing at the detector.
- Principal point: PositionOfIsocenterProjection (PS3.17 FFF.1.2.5.2); else the middle of the active detector area seen
  from the field of view's origin; else the middle of the image. Detector angles shift it.
- Orientation: the detector's columns run left to right looking towards the source (C.8.19.6.13.1.2), the mirror image
  of the camera's; FieldOfViewRotation turns that clockwise, then FieldOfViewHorizontalFlip mirrors it.
  PatientOrientation, where it is stated together with the beam's direction, overrules both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..geometry.carm import ISOCENTER_FRACTION, CArm
from .dicom import Lookup, floats, tag_name
from .orientation import camera_point
from .positioner import POSITIONS, Positioner, from_isocenter_angles, from_patient_angles


@dataclass(frozen=True)
class Fact:
    """One thing understood: its name, its value in words, and where it comes from (attribute, preset, user)."""

    name: str
    value: str
    source: str

    def __str__(self) -> str:
        return f"{self.name}: {self.value} [{self.source}]"


@dataclass(frozen=True)
class DicomGeometry:
    """What a DICOM X-ray says of its geometry.

    Attributes:
        carm: The C-arm, or None where something it needs is missing.
        positioner: The orientation relative to the patient, or None.
        mirrored, rotation: How the stored image differs from the camera's (known even where the rest is not).
        facts: Where each number comes from.
        missing: What is missing, by its name in carm.json.
        notes: What was found implausible, assumed or ambiguous.
    """

    carm: CArm | None
    positioner: Positioner | None
    mirrored: bool
    rotation: int
    facts: tuple[Fact, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class CArmPart:
    """Numbers a file may lack, as in CArm: mm, [row, column] of the camera's image."""

    source_to_detector: float | None = None
    pixel_spacing: tuple[float, float] | None = None


def read_geometry(lookup: Lookup, rows: int, columns: int, given: CArmPart | None = None) -> DicomGeometry:
    """The geometry of one frame of `rows` x `columns` stored pixels.

    Args:
        lookup: The frame's attributes.
        rows, columns: Stored.
        given: What the user knows of it: it goes before what the file says.
    """
    given = given or CArmPart()
    facts: list[Fact] = []
    notes: list[str] = []
    positioner = _positioner(lookup, facts, notes)
    mirrored, rotation = _orientation(lookup, positioner, facts, notes)
    _table(lookup, facts, notes)
    magnification = lookup.number("EstimatedRadiographicMagnificationFactor", 1.0, 20.0)
    distance, isocenter = _distances(lookup, magnification, facts, notes)
    if given.source_to_detector is not None:
        distance = given.source_to_detector
        facts.append(Fact("source to detector", f"{distance:g} mm", "C-arm file"))
    if magnification is None and distance and isocenter:
        magnification = distance / isocenter
    spacing = given.pixel_spacing or _spacing(lookup, magnification, rows, columns, facts, notes)
    if given.pixel_spacing and rotation in (90, 270):
        spacing = given.pixel_spacing[1], given.pixel_spacing[0]
    missing = tuple(n for n, v in (("sourceToDetector", distance), ("pixelSpacing", spacing)) if v is None)
    carm = None
    if distance is not None and spacing is not None:
        turned = rotation in (90, 270)
        carm = CArm(
            source_to_detector=distance,
            image_size=(columns, rows) if turned else (rows, columns),
            pixel_spacing=(spacing[1], spacing[0]) if turned else spacing,
            source_to_isocenter=isocenter or distance * ISOCENTER_FRACTION,
            mirrored=mirrored,
            rotation=rotation,
        )
        point = _principal_point(lookup, rows, columns, spacing, distance, facts, notes)
        if point is not None:
            carm = replace(carm, principal_point=camera_point(point, carm))
    return DicomGeometry(carm, positioner, mirrored, rotation, tuple(facts), missing, (*lookup.notes, *notes))


def _distances(
    lookup: Lookup, magnification: float | None, facts: list[Fact], notes: list[str]
) -> tuple[float | None, float | None]:
    """Source to detector and source to isocentre, mm."""
    distance = lookup.number("DistanceSourceToDetector", 100, 10000)
    isocenter, origin = lookup.number("DistanceSourceToIsocenter", 50, 10000), "DistanceSourceToIsocenter"
    if isocenter is None:
        isocenter, origin = lookup.number("DistanceSourceToPatient", 50, 10000), "DistanceSourceToPatient"
    if distance is not None:
        facts.append(Fact("source to detector", f"{distance:g} mm", tag_name("DistanceSourceToDetector")))
    elif isocenter is not None and magnification is not None:
        distance = isocenter * magnification
        source = f"{origin} x {tag_name('EstimatedRadiographicMagnificationFactor')}"
        facts.append(Fact("source to detector", f"{distance:g} mm", source))
    if isocenter is not None and distance is not None and isocenter >= distance:
        notes.append(
            f"{tag_name(origin)} is {isocenter:g} mm, not less than the distance to the detector: counted as missing."
        )
        isocenter = None
    if isocenter is not None:
        facts.append(Fact("source to isocentre", f"{isocenter:g} mm", tag_name(origin)))
    elif distance is not None and magnification is not None and magnification > 1:
        isocenter = distance / magnification
        source = f"source to detector / {tag_name('EstimatedRadiographicMagnificationFactor')}"
        facts.append(Fact("source to isocentre", f"{isocenter:g} mm", source))
    elif distance is not None:
        facts.append(Fact("source to isocentre", f"{distance * ISOCENTER_FRACTION:.0f} mm", "assumed: 700/1020"))
    return distance, isocenter


def _spacing(
    lookup: Lookup, magnification: float | None, rows: int, columns: int, facts: list[Fact], notes: list[str]
) -> tuple[float, float] | None:
    """[row, column] pixel spacing at the detector as stored, mm."""

    def found(pair: list[float] | tuple[float, float], source: str) -> tuple[float, float]:
        facts.append(Fact("pixel spacing", f"{pair[0]:g} x {pair[1]:g} mm (row, column) at the detector", source))
        return float(pair[0]), float(pair[1])

    imager = lookup.numbers("ImagerPixelSpacing", 2, 0.005, 10)
    if imager:
        return found(imager, tag_name("ImagerPixelSpacing"))
    element = lookup.numbers("DetectorElementSpacing", 2, 0.005, 10)
    binning = lookup.numbers("DetectorBinning", 2, 1, 16)
    if element:
        if binning:
            pair = element[0] * binning[0], element[1] * binning[1]
            return found(pair, f"{tag_name('DetectorElementSpacing')} x {tag_name('DetectorBinning')}")
        notes.append(f"{tag_name('DetectorElementSpacing')} was taken for the pixel spacing: no binning is stated.")
        return found(element, tag_name("DetectorElementSpacing"))
    plain = lookup.numbers("PixelSpacing", 2, 0.005, 10)
    if plain and lookup.text("PixelSpacingCalibrationType") == "GEOMETRY" and magnification:
        pair = plain[0] * magnification, plain[1] * magnification
        return found(pair, f"{tag_name('PixelSpacing')} (stated at the patient) x magnification {magnification:.4g}")
    if plain:
        notes.append(
            f"{tag_name('PixelSpacing')} is {plain[0]:g} x {plain[1]:g} mm, but it may be stated at the patient: it "
            "was not taken for the spacing at the detector."
        )
    field = _field_of_view(lookup)
    if field:
        pair = field[0] / rows, field[1] / columns
        notes.append("The pixel spacing was estimated from the field of view: check it.")
        return found(pair, f"{tag_name('FieldOfViewDimensions')} / image size")
    intensifier = lookup.number("IntensifierSize", 50, 600)
    if intensifier:
        notes.append("The pixel spacing was estimated from the intensifier's diameter: check it.")
        return found((intensifier / min(rows, columns),) * 2, f"{tag_name('IntensifierSize')} / image size")
    return None


def _field_of_view(lookup: Lookup) -> tuple[float, float] | None:
    """Height and width of the field of view at the detector, mm."""
    for keyword in ("FieldOfViewDimensionsInFloat", "FieldOfViewDimensions"):
        size = floats(lookup.value(keyword)) if lookup.value(keyword) is not None else []
        if size and all(20 <= n <= 1000 for n in size) and len(size) <= 2:
            return size[0], size[-1]
    return None


def _principal_point(
    lookup: Lookup,
    rows: int,
    columns: int,
    spacing: tuple[float, float],
    distance: float,
    facts: list[Fact],
    notes: list[str],
) -> tuple[float, float] | None:
    """(column, row) of the principal point in the stored image, or None for its middle."""
    point, source = _from_detector(lookup, rows, columns, spacing)
    angles = [lookup.number(k, -60, 60) or 0.0 for k in ("DetectorPrimaryAngle", "DetectorSecondaryAngle")]
    if max(map(abs, angles)) > 0.05:
        # The beam hits the middle of the detector under an angle: the foot of the perpendicular lies beside it.
        across, up = np.tan(np.deg2rad(angles))
        perpendicular = distance / np.sqrt(1 + across**2 + up**2)
        u, v = point or ((columns - 1) / 2, (rows - 1) / 2)
        point = u - across * perpendicular / spacing[1], v + up * perpendicular / spacing[0]
        source = " and ".join(filter(None, [source, tag_name("DetectorPrimaryAngle")]))
        notes.append(
            f"The detector is tilted to the beam by {angles[0]:g} and {angles[1]:g} degrees; check the result."
        )
    if point is None:
        facts.append(Fact("principal point", "middle of the image", "assumed"))
        return None
    if not (-columns <= point[0] <= 2 * columns and -rows <= point[1] <= 2 * rows):
        notes.append(
            f"The principal point from {source} lies far outside the image ({point[0]:.0f}, {point[1]:.0f}): the "
            "middle of the image was taken."
        )
        facts.append(Fact("principal point", "middle of the image", "assumed"))
        return None
    facts.append(Fact("principal point", f"column {point[0]:.2f}, row {point[1]:.2f} as stored", source))
    return point


def _from_detector(
    lookup: Lookup, rows: int, columns: int, spacing: tuple[float, float]
) -> tuple[tuple[float, float] | None, str]:
    """(column, row), as stored, of the isocentre's projection or else of the middle of the active area; its source."""
    element = lookup.numbers("DetectorElementSpacing", 2, 0.005, 10)
    binning = lookup.numbers("DetectorBinning", 2, 1, 16)
    if element is None and binning is not None:
        element = [spacing[0] / binning[0], spacing[1] / binning[1]]
    origin = lookup.numbers("FieldOfViewOrigin", 2, -1e5, 1e5)  # row offset, column offset, in detector elements
    turn, flip = _field_turn(lookup)
    # The field of view before rotation and flip.
    before = (spacing[1], spacing[0]) if turn in (90, 270) else spacing
    height, width = (columns, rows) if turn in (90, 270) else (rows, columns)
    projection = lookup.numbers("PositionOfIsocenterProjection", 2, -1e5, 1e5)  # the same way (C.8.19.5)
    active = lookup.numbers("DetectorActiveDimensions", 2, 10, 2000) or lookup.numbers(
        "DetectorActiveDimensions", 1, 10, 2000
    )
    if element is None:
        element = list(before) if origin or projection else None
    if element is None or origin is None:
        return None, ""
    if projection is not None:
        down, across = projection
        source = f"{tag_name('PositionOfIsocenterProjection')} and {tag_name('FieldOfViewOrigin')}"
    elif active is not None:
        start = lookup.numbers("DetectorActiveOrigin", 2, -1e5, 1e5) or [0.0, 0.0]
        down = start[0] + active[0] / element[0] / 2 - 0.5
        across = start[1] + active[-1] / element[1] / 2 - 0.5
        source = f"the middle of {tag_name('DetectorActiveDimensions')} and {tag_name('FieldOfViewOrigin')}"
    else:
        return None, ""
    # PS3.17 FFF.1.2.5.2: from detector elements to pixels of the field of view, centre to centre.
    ratio = element[0] / before[0], element[1] / before[1]
    v = (down - origin[0]) * ratio[0] - (1 - ratio[0]) / 2
    u = (across - origin[1]) * ratio[1] - (1 - ratio[1]) / 2
    for _ in range(turn // 90):  # clockwise: the left side comes to the top
        u, v = height - 1 - v, u
        height, width = width, height
    return (width - 1 - u if flip else u, v), source


def _field_turn(lookup: Lookup) -> tuple[int, bool]:
    """FieldOfViewRotation (clockwise degrees) and FieldOfViewHorizontalFlip."""
    found = lookup.number("FieldOfViewRotation", -360, 360)
    turn = 0 if found is None else round(found) % 360
    return turn if turn in (0, 90, 180, 270) else 0, lookup.text("FieldOfViewHorizontalFlip") in ("YES", "Y")


def _orientation(
    lookup: Lookup, positioner: Positioner | None, facts: list[Fact], notes: list[str]
) -> tuple[bool, int]:
    """(mirrored, rotation) of the stored image, as in CArm."""
    turn, flip = _field_turn(lookup)
    # Stored = flip(turn clockwise(mirror(camera))); a flip after the turn undoes the mirror and reverses the turn.
    mirrored, rotation = (False, turn) if flip else (True, (360 - turn) % 360)
    stated = lookup.value("FieldOfViewRotation") is not None or lookup.value("FieldOfViewHorizontalFlip") is not None
    source = tag_name("FieldOfViewRotation") if stated else "the standard's default: seen towards the source"
    axes = _patient_axes(lookup)
    if axes is not None and positioner is not None:
        ways = [(m, r) for m in (True, False) for r in (0, 90, 180, 270)]
        best = max(ways, key=lambda way: _agreement(positioner, way, axes))
        if _agreement(positioner, best, axes) > 1.2:
            if best != (mirrored, rotation) and stated:
                notes.append(
                    f"{tag_name('PatientOrientation')} contradicts the field of view's rotation and flip: followed."
                )
            (mirrored, rotation), source = best, tag_name("PatientOrientation")
        else:
            notes.append(f"{tag_name('PatientOrientation')} does not go with the direction of the beam: not followed.")
    words = "mirror image of the camera's" if mirrored else "as the camera sees it"
    facts.append(Fact("stored image", words + (f", turned by {rotation} degrees" if rotation else ""), source))
    return mirrored, rotation


_DIRECTIONS = {
    "L": (-1, 0, 0), "R": (1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1),
}  # fmt: skip


def _patient_axes(lookup: Lookup) -> tuple[Any, Any] | None:
    """Unit vectors in RAS of the stored rows (rightwards) and columns (downwards), from PatientOrientation."""
    value = lookup.value("PatientOrientation")
    if value is None or isinstance(value, str) or len(value) != 2:
        return None
    axes = []
    for words in value:
        letters = [letter for letter in str(words).strip().upper() if letter in _DIRECTIONS]
        if not letters:
            return None
        # Letters in order of weight; halves give the sense of an oblique direction well enough.
        vector = sum(np.array(_DIRECTIONS[letter], float) * 0.5**n for n, letter in enumerate(letters))
        axes.append(vector / np.linalg.norm(vector))
    return axes[0], axes[1]


def _agreement(positioner: Positioner, way: tuple[bool, int], axes: tuple[Any, Any]) -> float:
    """How well stored axes fit, -2..2, if the image is stored this way: (mirrored, rotation)."""
    mirrored, rotation = way
    right, down = positioner.rotation[:, 0], positioner.rotation[:, 1]
    right = -right if mirrored else right
    for _ in range(rotation // 90):  # turned counter-clockwise: what pointed down now points right
        right, down = down, -right
    return float(right @ axes[0] + down @ axes[1])


_VIEW_ANGLES = {"PA": 0.0, "AP": 180.0, "LL": 90.0, "RL": -90.0}


def _positioner(lookup: Lookup, facts: list[Fact], notes: list[str]) -> Positioner | None:
    """The orientation relative to the patient, from whatever states it."""
    position = lookup.text("PatientPosition")
    if position and position not in POSITIONS:
        notes.append(f"{tag_name('PatientPosition')} is {position[:8]!r}, which is not known: head first was assumed.")
        position = ""
    angles = [_angle(lookup, axis) for axis in ("Primary", "Secondary")]
    if None not in angles:
        primary, secondary = float(angles[0] or 0), float(angles[1] or 0)
        positioner = from_patient_angles(primary, secondary, position)
        source = f"{tag_name('PositionerPrimaryAngle')} and {tag_name('PositionerSecondaryAngle')}"
    elif (room := [lookup.number(f"PositionerIsocenter{a}Angle", -180, 180) for a in ("Primary", "Secondary")]) and (
        None not in room
    ):
        positioner = from_isocenter_angles(float(room[0] or 0), float(room[1] or 0), position)
        source = tag_name("PositionerIsocenterPrimaryAngle")
        turn = lookup.number("PositionerIsocenterDetectorRotationAngle", -360, 360)
        if turn:
            notes.append(f"The detector is turned by {turn:g} degrees about the beam: the start may be turned too.")
    elif lookup.text("ViewPosition") in _VIEW_ANGLES:
        positioner = from_patient_angles(_VIEW_ANGLES[lookup.text("ViewPosition")], 0.0, "")
        source = tag_name("ViewPosition")
    else:
        return None
    facts.append(Fact("beam", positioner.words, source))
    if position.endswith("P") and "Positioner" in source:
        notes.append(
            "The patient lies prone. The angles were taken relative to the patient, as the standard has it; if this "
            "C-arm writes them relative to the room, give the view instead."
        )
    return positioner


def _table(lookup: Lookup, facts: list[Fact], notes: list[str]) -> None:
    """The table's place: told, not used, for the patient may lie anywhere on it; a tilt is warned of."""
    place = [lookup.number(f"Table{axis}PositionToIsocenter", -1e4, 1e4) for axis in "XYZ"]
    if None not in place:
        x, y, z = (float(p or 0) for p in place)
        facts.append(Fact("table", f"{x:g}, {y:g}, {z:g} mm from the isocentre", tag_name("TableXPositionToIsocenter")))
    for keyword in ("TableHorizontalRotationAngle", "TableHeadTiltAngle", "TableCradleTiltAngle"):
        angle = lookup.number(keyword, -360, 360)
        if angle is not None and abs(angle) > 0.5:
            notes.append(f"{tag_name(keyword)} is {angle:g} degrees: a start from DICOM does not know of it.")


def _angle(lookup: Lookup, axis: str) -> float | None:
    """Positioner angle of the frame, degrees: of the first frame plus its increment where it varies."""
    angle = lookup.number(f"Positioner{axis}Angle", -180, 180)
    if angle is None:
        return None
    increments = floats(lookup.value(f"Positioner{axis}AngleIncrement") or [])
    if len(increments) == 1:
        angle += increments[0] * lookup.frame
    elif lookup.frame < len(increments):
        angle += increments[lookup.frame]
    return (angle + 180) % 360 - 180 if abs(angle) > 180 else angle
