"""Typical C-arms, for images that say nothing of their geometry."""

from __future__ import annotations

from dataclasses import dataclass

from slicer.i18n import tr as _

from ..geometry.carm import CArm


@dataclass(frozen=True)
class Preset:
    """A kind of C-arm.

    Attributes:
        source_to_detector, source_to_isocenter: mm.
        width: Of the square image at the detector, mm.
    """

    source_to_detector: float
    source_to_isocenter: float
    width: float

    def carm(self, rows: int, columns: int, intensity: str | None = None) -> CArm:
        """A C-arm whose image of rows x columns pixels has this width."""
        spacing = self.width / columns
        return CArm(
            self.source_to_detector,
            (rows, columns),
            (spacing, spacing),
            source_to_isocenter=self.source_to_isocenter,
            intensity=intensity,
        )


# Image size for a preparation without any image: no figure of a network depends on it.
DEFAULT_SIZE = (512, 512)


def presets() -> dict[str, Preset]:
    """Name for the user -> figures. Typical ones; the C-arm's manual or the DICOM file knows better."""
    return {
        _("Mobile C-arm, flat panel 30 cm"): Preset(1100.0, 700.0, 297.0),
        _("Mobile C-arm, flat panel 21 cm"): Preset(1000.0, 640.0, 207.0),
        _("Mobile C-arm, image intensifier 23 cm"): Preset(1000.0, 640.0, 230.0),
        _("Mobile C-arm, image intensifier 31 cm"): Preset(1000.0, 640.0, 310.0),
        _("Angiography system, flat panel 30 x 30 cm"): Preset(1200.0, 785.0, 300.0),
        _("Angiography system, flat panel 40 x 40 cm"): Preset(1200.0, 785.0, 400.0),
    }
