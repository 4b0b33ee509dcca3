"""C-arms for images that do not carry their geometry: a few known ones, and honest guesses for unknown ones.

All values are nominal. What matters to a registration is the ratio of pixel spacing to source distance: a scale error
of 1 % there moves the found depth by about 1 % of the source's distance, so a calibration or a DICOM file is always
better.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from ..geometry.carm import CArm


@dataclass(frozen=True)
class Preset:
    """A C-arm: distances and detector size in mm.

    Attributes:
        title: For the user.
        source_to_detector, source_to_isocenter: mm.
        detector: (height, width) of the area an image shows, mm.
        exact: False where the values are typical of a class of devices, not of one device.
    """

    title: str
    source_to_detector: float
    source_to_isocenter: float
    detector: tuple[float, float]
    exact: bool = False


PRESETS = {
    "mobile-flat-30": Preset("Mobile C-arm, flat panel 30 x 30 cm", 1020, 700, (300, 300)),
    "mobile-flat-20": Preset("Mobile C-arm, flat panel 20 x 20 cm", 1000, 650, (200, 200)),
    "mobile-intensifier-23": Preset("Mobile C-arm, image intensifier 23 cm (9 inch)", 980, 650, (215, 215)),
    "mobile-intensifier-31": Preset("Mobile C-arm, image intensifier 31 cm (12 inch)", 980, 650, (290, 290)),
    "mini": Preset("Mini C-arm for extremities, 15 x 15 cm", 450, 350, (150, 150)),
    "fixed-30x40": Preset("Fixed angiography system, flat panel 30 x 40 cm", 1200, 785, (296, 382)),
    "fixed-20x20": Preset("Fixed cardiac system, flat panel 20 x 20 cm", 1100, 765, (200, 200)),
    "radiography": Preset("Radiography, detector 43 x 43 cm at 115 cm", 1150, 1000, (430, 430)),
    "cios-fusion": Preset("Siemens Cios Fusion, 30 x 30 cm (1536 x 1536 of 0.194 mm)", 1020, 700, (298, 298), True),
}


def preset_carm(name: str, image_size: tuple[int, int]) -> CArm:
    """The C-arm of a preset for an image of (rows, columns); its longer side covers the detector's.

    Raises:
        InputError: there is no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"There is no C-arm preset {name!r}: use one of {', '.join(PRESETS)}.")
    preset = PRESETS[name]
    rows, columns = image_size
    height, width = preset.detector
    if (rows > columns) != (height > width) and rows != columns:
        height, width = width, height  # the detector was turned
    spacing = max(height / rows, width / columns)
    return CArm(
        preset.source_to_detector,
        (rows, columns),
        (spacing, spacing),
        source_to_isocenter=preset.source_to_isocenter,
    )
