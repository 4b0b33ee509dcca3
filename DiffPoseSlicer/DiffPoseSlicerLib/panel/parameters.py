"""The panel's settings, stored in the scene by Slicer's parameter node."""

# No "from __future__ import annotations": Slicer's wrapper reads the annotations as they are.
from enum import Enum
from typing import Annotated, Union

from slicer import (
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsROINode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLVectorVolumeNode,
)
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

# What the selectors offer; typing.Union, because Slicer's wrapper knows no other. Colour images are vector volumes.
Image = Union[vtkMRMLScalarVolumeNode, vtkMRMLVectorVolumeNode, None]  # noqa: UP007
Region = Union[vtkMRMLSegmentationNode, vtkMRMLMarkupsROINode, None]  # noqa: UP007


class View(Enum):
    """The nominal view; the value is the library's name of it."""

    AP = "AP"
    PA = "PA"
    LEFT_LATERAL = "LEFT_LATERAL"
    RIGHT_LATERAL = "RIGHT_LATERAL"

    @staticmethod
    def label(view: "View") -> str:
        """The words of a view in the panel."""
        return {
            View.AP: _("AP: beam enters in front"),
            View.PA: _("PA: beam enters behind"),
            View.LEFT_LATERAL: _("Left lateral: left side at the detector"),
            View.RIGHT_LATERAL: _("Right lateral: right side at the detector"),
        }[view]


class Quality(Enum):
    """How long a preparation takes; the value is the library's name of it."""

    QUICK = "quick"
    STANDARD = "standard"
    THOROUGH = "thorough"

    @staticmethod
    def label(quality: "Quality") -> str:
        """The words of a preset in the panel."""
        return {
            Quality.QUICK: _("Quick"),
            Quality.STANDARD: _("Standard"),
            Quality.THOROUGH: _("Thorough"),
        }[quality]


class Start(Enum):
    """Where a registration starts; the value is what the logic takes."""

    AUTO = "auto"
    CURRENT = "current"
    VIEW = "view"
    SEARCH = "search"
    ANYWHERE = "anywhere"
    LANDMARKS = "landmarks"

    @staticmethod
    def label(start: "Start") -> str:
        """The words of a start in the panel."""
        return {
            Start.AUTO: _("Automatic"),
            Start.CURRENT: _("Where the CT is now"),
            Start.VIEW: _("View as given"),
            Start.SEARCH: _("Search"),
            Start.ANYWHERE: _("Search, any view"),
            Start.LANDMARKS: _("Landmarks"),
        }[start]


@parameterNodeWrapper
class Parameters:
    """What the panel remembers with the scene.

    carm is the content of a carm.json: the C-arm last used, offered to images that carry no geometry, and what a
    preparation without any image is for. segment is the ID of a segment, where the region is a segmentation.
    """

    ct: vtkMRMLScalarVolumeNode
    region: Region
    segment: str = ""
    fluoroscopy: Image
    view: View = View.AP
    laoRao: Annotated[float, WithinRange(-180, 180)] = 0.0
    cranCaud: Annotated[float, WithinRange(-90, 90)] = 0.0
    rotation: Annotated[float, WithinRange(5, 60)] = 30.0
    shift: Annotated[float, WithinRange(10, 150)] = 50.0
    quality: Quality = Quality.QUICK
    start: Start = Start.AUTO
    second: Image
    points: vtkMRMLMarkupsFiducialNode
    seen: vtkMRMLMarkupsFiducialNode
    blend: Annotated[float, WithinRange(0, 100)] = 50.0
    follow: bool = False
    carm: str = ""
    job: str = ""
