"""Step 1, Images: the CT, the fluoroscopy, its geometry and its view."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import Cancelled, InputError
from ..geometry.carm import CArm
from ..imaging.carm_presets import PRESETS, preset_carm
from ..scene import dicom, region, upload
from ..scene import fluoroscopy as fluoro
from ..scene.nodes import ROLE
from . import status
from .steps import Step

# Size of the image for a preparation before there is one: it decides nothing about the model.
DEFAULT_SIZE = (512, 512)
_NAMES = {"sourceToDetector": _("distance from source to detector"), "pixelSpacing": _("pixel size")}
_INTENSITIES = (None, "transmission", "attenuation")


class ImagesStep(Step):
    """Chooses the images and makes sure that their geometry is known."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        ui.geometryBox.collapsed = True
        ui.presetCombo.addItem(_("Choose..."))
        for preset in PRESETS.values():
            ui.presetCombo.addItem(_(preset.title))
        ui.presetCombo.connect("activated(int)", self._preset_chosen)
        ui.applyGeometryButton.connect("clicked()", self.apply_geometry)
        ui.readGeometryButton.connect("clicked()", self._read_clicked)
        ui.turnLeftButton.connect("clicked()", lambda: self.turn(90))
        ui.turnRightButton.connect("clicked()", lambda: self.turn(270))
        ui.mirrorButton.connect("clicked()", self.mirror)
        ui.segmentCombo.connect("activated(int)", self._segment_chosen)
        self._shown_for: Any = None
        self._browser: Any = None
        self._said = ""
        self._source = _("typed")

    # What the buttons do

    def _preset_chosen(self, index: int) -> None:
        if index < 1:
            return
        name = list(PRESETS)[index - 1]
        self._fill(preset_carm(name, self._camera_size()))
        self._source = _("this device") if PRESETS[name].exact else _("typical")
        self.apply_geometry()

    def _read_clicked(self) -> None:
        chosen = qt.QFileDialog.getOpenFileName(
            self.panel.widget, _("Read the C-arm's geometry"), "", _("C-arm geometry (*.json)")
        )
        path = chosen[0] if isinstance(chosen, tuple) else chosen  # PythonQt gives the path alone
        if path:
            self.read_geometry(path)

    def read_geometry(self, path: str) -> None:
        """Take the geometry of a carm.json."""
        try:
            carm = CArm.read(path)
            self._store(carm, _("file"))
        except InputError as error:
            self._say(str(error))

    def apply_geometry(self) -> None:
        """Store what the fields say with the fluoroscopy (or, before there is one, with the scene)."""
        ui = self.ui
        rows, columns = self._camera_size()
        if ui.sddSpin.value <= 0 or ui.rowSpacingSpin.value <= 0 or ui.columnSpacingSpin.value <= 0:
            self._say(_("The source-to-detector distance and the pixel size are needed: type them or choose a preset."))
            return
        old = self.panel.carm()
        try:
            carm = CArm(
                ui.sddSpin.value,
                (rows, columns),
                (ui.rowSpacingSpin.value, ui.columnSpacingSpin.value),
                source_to_isocenter=ui.isocenterSpin.value or None,  # type: ignore[arg-type]
                intensity=_INTENSITIES[ui.intensityCombo.currentIndex],
                mirrored=old.mirrored if old else False,
                rotation=old.rotation if old else 0,
            )
            self._store(carm, self._source)
        except InputError as error:
            self._say(str(error))

    def _store(self, carm: CArm, source: str) -> None:
        if self.fluoroscopy is not None:
            keys = ("sourceToDetector", "pixelSpacing", "sourceToIsocenter")
            self.logic.set_geometry(self.fluoroscopy, carm, dict.fromkeys(keys, source))
        self.panel.remember_carm(carm)
        self._said = ""
        self._shown_for = None
        self._source = _("typed")
        self.ui.geometryBox.collapsed = self.fluoroscopy is not None
        self.panel.images_changed()

    def turn(self, degrees: int) -> None:
        """Turn the image counter-clockwise: it was stored turned the other way."""
        carm = self.panel.carm()
        if carm is None or self.fluoroscopy is None:
            return
        turned = replace(
            carm,
            # A mirrored image is turned before it is mirrored back: the other way.
            rotation=(carm.rotation + (degrees if carm.mirrored else -degrees)) % 360,
            image_size=carm.image_size[::-1],
            pixel_spacing=carm.pixel_spacing[::-1],
            principal_point=_turned_point(carm, degrees),
        )
        self._store_orientation(turned)

    def mirror(self) -> None:
        """Swap left and right of the image as it is seen."""
        carm = self.panel.carm()
        if carm is None or self.fluoroscopy is None:
            return
        u0, v0 = carm.principal_point
        flipped = replace(
            carm,
            mirrored=not carm.mirrored,
            principal_point=(carm.image_size[1] - 1 - u0, v0),
        )
        self._store_orientation(flipped)

    def _store_orientation(self, carm: CArm) -> None:
        try:
            self.logic.set_geometry(self.fluoroscopy, carm, fluoro.get_sources(self.fluoroscopy))
        except InputError as error:
            self._say(str(error))
            return
        self.panel.remember_carm(carm)
        self.panel.images_changed()

    def _segment_chosen(self, index: int) -> None:
        found = region.segments(self.panel.parameters.region)
        self.panel.parameters.segment = found[index][0] if 0 <= index < len(found) else ""

    # Choosing for the user

    def guess(self) -> None:
        """Choose images where the scene leaves no choice: one volume, one image of one slice."""
        parameters = self.panel.parameters
        if parameters is None:
            return
        volumes, images = [], []
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            if node.GetHideFromEditors() or node.GetAttribute(ROLE) or node.IsA("vtkMRMLLabelMapVolumeNode"):
                continue
            if fluoro.is_fluoroscopy(node):
                images.append(node)
            elif node.GetImageData() is not None:
                volumes.append(node)
        if parameters.ct is None and len(volumes) == 1:
            parameters.ct = volumes[0]
        if parameters.fluoroscopy is None and len(images) == 1:
            parameters.fluoroscopy = images[0]

    def take_over_geometry(self) -> None:
        """Offer an image without geometry what is known: the C-arm last used, where the size fits; its own spacing."""
        node = self.fluoroscopy
        if node is None or fluoro.get_carm(node) is not None or not fluoro.is_fluoroscopy(node):
            return
        if dicom.file_of(node):
            self.logic.read_geometry(
                node,
                blocking=False,
                on_done=lambda found, node=node: self._stated(node, found),
                on_error=self._not_read,
            )
            self.panel.wake()
            return
        self._offer(node)

    def _stated(self, node: Any, found: dicom.Stated) -> None:
        """The engine has read the geometry of a DICOM file."""
        words = [_NAMES.get(name, name) for name in found.missing]
        missing = (
            [_("The DICOM file does not say the {names}.").format(names=_(" and the ").join(words))] if words else []
        )
        fluoro.set_notes(node, [*missing, *found.notes])
        if node is not self.fluoroscopy:
            return
        if found.carm is None:
            self._offer(node)
        else:
            self.panel.remember_carm(found.carm)
        self._shown_for = None
        self.panel.take_over_view()
        self.panel.images_changed()

    def _not_read(self, error: Exception) -> None:
        if not isinstance(error, Cancelled):
            self._say(self.panel.explain(error)[1])

    def _offer(self, node: Any) -> None:
        """What is known of a C-arm without a file that says it."""
        last = self.panel.remembered_carm()
        if last is not None:
            with suppress(InputError):  # of another size
                before = dict.fromkeys(("sourceToDetector", "pixelSpacing"), _("as before"))
                self.logic.set_geometry(node, last, before)

    # What is shown

    def refresh(self) -> None:
        ui, ct, node = self.ui, self.ct, self.fluoroscopy
        _set_text(ui.ctInfoLabel, describe_ct(ct))
        is_image = fluoro.is_fluoroscopy(node)
        carm = fluoro.get_carm(node) if is_image else None
        _set_text(ui.fluoroscopyInfoLabel, describe_fluoroscopy(node, carm))
        browser = fluoro.browser_of(node)[0] if node is not None else None
        for widget in (ui.frameLabel, ui.frameSeek):
            widget.visible = browser is not None
        if browser is not self._browser:
            self._browser = browser
            ui.frameSeek.setMRMLSequenceBrowserNode(browser)
        ready = carm is not None and not self.panel.busy_registering
        why = _("Give the geometry first.") if carm is None else _("Wait until the registration has ended.")
        tips = {
            ui.turnLeftButton: _("The image was stored turned: turn it a quarter to the left."),
            ui.turnRightButton: _("The image was stored turned: turn it a quarter to the right."),
            ui.mirrorButton: _("The image was stored mirrored: swap left and right."),
        }
        for button, tip in tips.items():
            status.enable(button, ready, tip if ready else why)
        for selector in (ui.ctSelector, ui.fluoroscopySelector, ui.regionSelector, ui.segmentCombo):
            selector.enabled = not self.panel.busy_registering
        self._show_segments()
        self._show_geometry(node, carm)
        status.show(ui.imagesStateLabel, *self._state(ct, node, is_image, carm))
        missing = is_image and carm is None
        if missing and ui.geometryBox.collapsed:
            ui.geometryBox.collapsed = False
        status.accent(ui.applyGeometryButton, missing)

    def _show_segments(self) -> None:
        """The segments of the chosen segmentation; the first one where the scene says none."""
        combo, p = self.ui.segmentCombo, self.panel.parameters
        found = region.segments(p.region) if p is not None else []
        combo.visible = bool(found)
        names = [name for _key, name in found]
        if [combo.itemText(index) for index in range(combo.count)] != names:
            combo.clear()
            combo.addItems(names)
        keys = [key for key, _name in found]
        if keys and p.segment not in keys:
            p.segment = keys[0]
        elif keys and combo.currentIndex != keys.index(p.segment):
            combo.currentIndex = keys.index(p.segment)

    def _show_geometry(self, node: Any, carm: CArm | None) -> None:
        """Fill the fields once a fluoroscopy or its geometry changes; then they are the user's to edit."""
        carm = carm or self.panel.carm()
        key = (node.GetID() if node is not None else "", carm)
        if key == self._shown_for:
            return
        self._shown_for = key
        if carm is not None:
            self._fill(carm)
        else:
            self._empty(node)

    def _empty(self, node: Any) -> None:
        """Nothing is known but, perhaps, the pixel size that the image came with."""
        ui, spacing = self.ui, (0.0, 0.0)
        if fluoro.is_fluoroscopy(node) and not all(abs(s - 1) < 1e-6 for s in node.GetSpacing()[:2]):
            spacing = node.GetSpacing()[:2]
        ui.columnSpacingSpin.value, ui.rowSpacingSpin.value = spacing
        ui.sddSpin.value = ui.isocenterSpin.value = 0.0
        ui.intensityCombo.currentIndex = ui.presetCombo.currentIndex = 0

    def _fill(self, carm: CArm) -> None:
        ui = self.ui
        ui.sddSpin.value = carm.source_to_detector
        ui.rowSpacingSpin.value, ui.columnSpacingSpin.value = carm.pixel_spacing
        ui.isocenterSpin.value = carm.source_to_isocenter
        ui.intensityCombo.currentIndex = _INTENSITIES.index(carm.intensity)

    def _state(self, ct: Any, node: Any, is_image: bool, carm: CArm | None) -> tuple[str, str]:
        if self._said:
            return "bad", self._said
        if ct is None and node is None:
            return "idle", _("Choose the patient's CT and a fluoroscopy.")
        if ct is not None:
            try:
                upload.ct_array(ct)
                upload.ct_stamp(ct)
            except InputError as error:
                return "bad", str(error)
        if node is not None and not is_image:
            return "bad", _("'{name}' is no fluoroscopy: choose an image of one slice.").format(name=node.GetName())
        if ct is None:
            return "idle", _("Choose the patient's CT.")
        if node is None:
            return "idle", _("Choose a fluoroscopy; or prepare this patient before there is one.")
        notes = fluoro.get_notes(node)
        if carm is None and notes:
            return "warn", _("{notes} Choose a C-arm preset or type its figures.").format(notes=" ".join(notes))
        if carm is None:
            return "warn", _("The geometry is not known: choose a C-arm preset or type its figures.")
        if notes:
            return "warn", _("Ready. {notes}").format(notes=" ".join(notes))
        return "good", _("CT and fluoroscopy are ready.")

    def _say(self, text: str) -> None:
        self._said = text
        self.panel.refresh()

    def forget_message(self) -> None:
        """What was wrong with an input no longer matters: another one was chosen."""
        self._said = ""

    def _camera_size(self) -> tuple[int, int]:
        """Rows and columns of the image as the camera sees it."""
        node, carm = self.fluoroscopy, self.panel.carm()
        if not fluoro.is_fluoroscopy(node):
            return carm.image_size if carm else DEFAULT_SIZE
        rows, columns = fluoro.stored_pixels(node).shape
        turned = carm is not None and carm.rotation in (90, 270)
        return (columns, rows) if turned else (rows, columns)


def describe_ct(node: Any) -> str:
    """Size and spacing of a CT in one line."""
    if node is None or node.GetImageData() is None:
        return ""
    size = " x ".join(map(str, node.GetImageData().GetDimensions()))
    spacing = " x ".join(f"{s:.2f}" for s in node.GetSpacing())
    return _("{size} · {spacing} mm").format(size=size, spacing=spacing)


def describe_fluoroscopy(node: Any, carm: CArm | None) -> str:
    """Size and geometry of a fluoroscopy in one line, each figure with its source."""
    if not fluoro.is_fluoroscopy(node):
        return ""
    columns, rows, _slices = node.GetImageData().GetDimensions()
    parts = [_("{columns} x {rows} pixels").format(columns=columns, rows=rows)]
    if carm is not None:
        sources = fluoro.get_sources(node)
        for key, text in (
            ("pixelSpacing", _("{size:.3g} mm").format(size=carm.pixel_spacing[1])),
            ("sourceToDetector", _("detector at {sdd:.0f} mm").format(sdd=carm.source_to_detector)),
        ):
            parts.append(f"{text} ({sources[key]})" if sources.get(key) else text)
        if carm.mirrored:
            parts.append(_("mirrored back"))
        if carm.rotation:
            parts.append(_("turned back by {degrees} degrees").format(degrees=carm.rotation))
    return " · ".join(parts)


def _turned_point(carm: CArm, degrees: int) -> tuple[float, float]:
    """The principal point after the seen image is turned counter-clockwise by 90 or 270 degrees."""
    (u, v), (rows, columns) = carm.principal_point, carm.image_size
    return (v, columns - 1 - u) if degrees == 90 else (rows - 1 - v, u)


def _set_text(label: Any, text: str) -> None:
    """Write a line; without text it takes no room."""
    if label.text != text:
        label.text = text
    if label.visible != bool(text):
        label.visible = bool(text)
