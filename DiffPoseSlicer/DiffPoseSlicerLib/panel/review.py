"""Step 4, Review: see how well the CT fits, keep it or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import qt
import slicer.util
from slicer.i18n import tr as _

from ..errors import InputError
from ..scene import carm_nodes, overlays, placement, results
from ..scene import fluoroscopy as fluoro
from ..scene.fluoroscopy import record
from ..scene.live import LiveDrr
from ..scene.nodes import referenced
from ..scene.surface import SURFACE
from . import status
from .steps import Step

_FLICKER_MS = 500
# Poses that explain the image about as well as the best: they have at least this share of the belief.
_AS_GOOD = 0.2
_GREY, _EDGES = "vtkMRMLColorTableNodeGrey", "vtkMRMLColorTableNodeYellow"


class ReviewStep(Step):
    """Compares fluoroscopy and synthetic X-ray; accepts, undoes, exports."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        self._modes = {
            overlays.CHECKERBOARD: ui.checkerboardButton,
            overlays.EDGES: ui.edgesButton,
            overlays.DIFFERENCE: ui.differenceButton,
        }
        for mode, button in self._modes.items():
            button.connect("clicked(bool)", lambda on, mode=mode: self.choose(mode if on else overlays.BLEND))
        ui.flickerButton.connect("toggled(bool)", self._flicker_toggled)
        ui.lookButton.connect("toggled(bool)", self.look)
        ui.volumeRenderingButton.connect("toggled(bool)", self._volume_rendering_toggled)
        ui.replaySlider.connect("valueChanged(int)", self.replay)
        ui.acceptButton.connect("clicked()", self.accept)
        ui.undoButton.connect("clicked()", self.undo)
        ui.exportButton.connect("clicked()", self._export_clicked)
        ui.hypothesesButton.connect("clicked()", self.next_hypothesis)
        self.mode = overlays.BLEND
        self.drr = LiveDrr(self.logic, self._drawn, self._drr_failed)
        self._said: tuple[str, str] | None = None
        self._drr_error: tuple[str, str] | None = None
        self._history: list[dict[str, Any]] = []
        self._hypothesis = 0
        self._dark = False
        self._flicker = qt.QTimer()
        self._flicker.setInterval(_FLICKER_MS)
        self._flicker.connect("timeout()", self._flick)

    # The synthetic X-ray

    def moved(self) -> None:
        """The CT has moved: render what it looks like now."""
        if self.ct is not None and self.panel.carm_of_image() is not None and not self.panel.busy_registering:
            self.drr.want(self.ct, self.fluoroscopy)
            self.panel.wake()

    def draw(self) -> None:
        """Show fluoroscopy and synthetic X-ray as the buttons say."""
        carm = self.panel.carm_of_image()
        c0 = self.logic.c0(self.fluoroscopy) if carm is not None else None
        if carm is None or c0 is None:
            self.panel.layout.clear()
            return
        node = record(self.fluoroscopy)
        foreground, opacity = referenced(node, carm_nodes.DRR), self.panel.parameters.blend / 100.0
        if foreground is not None and self.mode != overlays.BLEND:
            foreground, opacity = self._overlay(node, foreground, carm, c0), 1.0
        if self._flicker.isActive():
            opacity = 0.0 if self._dark else 1.0
        self.panel.layout.show(self.fluoroscopy, carm, c0, foreground, opacity)

    def _overlay(self, node: Any, drr_node: Any, carm: Any, c0: Any) -> Any:
        drr = slicer.util.arrayFromVolume(drr_node)[0]
        grid = carm if drr.shape == carm.image_size else carm.resized(drr.shape)
        if self.mode == overlays.EDGES:
            return carm_nodes.show_overlay(node, overlays.edges(drr), grid, c0, color=_EDGES, window=(0.0, 1.0))
        if self.mode == overlays.CHECKERBOARD:
            # The same scale as the fluoroscopy's own, so that structures can be followed from square to square.
            color = referenced(node, carm_nodes.DETECTOR).GetDisplayNode().GetColorNodeID()
            return carm_nodes.show_overlay(node, overlays.checkerboard(drr), grid, c0, color=color, window=(0.0, 1.0))
        image = slicer.util.arrayFromVolume(referenced(node, carm_nodes.DETECTOR))[0]
        step = max(1, max(image.shape) // 512)
        small = carm if step == 1 else carm.resized(image[::step, ::step].shape)
        return carm_nodes.show_overlay(
            node, overlays.difference(image[::step, ::step], drr), small, c0, color=_GREY, window=(-2.0, 2.0)
        )

    def _drawn(self) -> None:
        if self._drr_error is not None and self._said == self._drr_error:
            self._said = None  # it works again
            self.panel.refresh()
        self._drr_error = None
        self.draw()

    def _drr_failed(self, error: Exception) -> None:
        self._said = self._drr_error = self.panel.explain(error)
        self.panel.refresh()

    # What the buttons do

    def choose(self, mode: str) -> None:
        """Compare by blend, checkerboard, edges or difference."""
        self.mode = mode
        for name, button in self._modes.items():
            button.checked = name == mode
        self.draw()

    def _flicker_toggled(self, on: bool) -> None:
        if on:
            self._flicker.start()
        else:
            self._flicker.stop()
            self._dark = False
        self.draw()

    def _flick(self) -> None:
        self._dark = not self._dark
        self.draw()

    def look(self, on: bool) -> None:
        """Look from the source in 3D, or go back."""
        carm = self.panel.carm_of_image()
        c0 = self.logic.c0(self.fluoroscopy) if carm is not None else None
        if c0 is not None:
            self.panel.layout.look_from_source(carm, c0, on)
        model = referenced(self.ct, SURFACE)
        if model is not None:  # from the source bone would hide its own shadow
            model.GetDisplayNode().SetOpacity(0.4 if on else 1.0)

    def _volume_rendering_toggled(self, on: bool) -> None:
        with slicer.util.tryWithErrorDisplay(_("The CT cannot be rendered as a volume."), waitCursor=True):
            self.panel.show_volume_rendering(on)

    def replay(self, index: int) -> None:
        """Show an iteration of the last registration again."""
        if not 0 <= index < len(self._history) or self.ct is None or self.panel.busy_registering:
            return
        last = index == len(self._history) - 1
        result = results.get_result(self.fluoroscopy, self.ct)
        pose = result["views"][0]["cameraToRAS"] if last and result else self._history[index]["cameraToRAS"]
        self._hypothesis = 0
        self.logic.set_pose(self.ct, self.fluoroscopy, np.array(pose, float))
        self._show_replay(index)
        self.moved()
        self.panel.refresh_soon()

    def next_hypothesis(self) -> None:
        """Show the next of several poses that explain the image about equally well."""
        poses = _as_good(results.get_result(self.fluoroscopy, self.ct))
        if len(poses) > 1 and not self.panel.busy_registering:
            self._hypothesis = (self._hypothesis + 1) % len(poses)
            self.logic.set_pose(self.ct, self.fluoroscopy, np.array(poses[self._hypothesis]["cameraToRAS"], float))
            self.moved()
            self.panel.refresh()

    def _show_hypotheses(self, result: dict[str, Any] | None, running: bool) -> None:
        number = len(_as_good(result))
        button = self.ui.hypothesesButton
        button.visible = number > 1 and not running
        button.text = _("Show the next pose ({now} of {number} is shown)").format(
            now=self._hypothesis + 1, number=number
        )

    def _show_landmarks(self, ready: bool) -> None:
        """Per-landmark errors of the pose that is shown."""
        p, text = self.panel.parameters, ""
        if ready and p.points is not None and p.seen is not None:
            try:
                found = self.logic.landmark_errors(self.ct, self.fluoroscopy, p.points, p.seen)
                parts = [_("{name} {error:.1f} mm").format(name=name, error=error) for name, error in found.items()]
                text = _("Landmarks: {list}").format(list=" · ".join(parts))
            except InputError:
                pass  # step Register says it
        self.ui.landmarksLabel.text = text
        self.ui.landmarksLabel.visible = bool(text)

    def accept(self) -> None:
        """Keep the pose that is shown, be it the best or another that fits as well."""
        self._try(lambda: self.logic.accept(self.ct, self.fluoroscopy, self._hypothesis), _("Accepted."))
        if results.is_accepted(self.fluoroscopy):
            self._hypothesis = 0
            self.panel.refresh()

    def undo(self) -> None:
        """Put the CT back where it lay."""
        self._try(lambda: self.logic.undo(self.ct, self.fluoroscopy), _("Undone: the CT lies where it was."))
        self._read_history()
        self.moved()
        self.panel.refresh()

    def _export_clicked(self) -> None:
        kinds = _("Result (*.json);;Page for the patient's file (*.html);;Transform (*.h5 *.tfm)")
        chosen = qt.QFileDialog.getSaveFileName(self.panel.widget, _("Export the result"), "result.json", kinds)
        path = chosen[0] if isinstance(chosen, tuple) else chosen  # PythonQt gives the path alone
        if path:
            self.export(path)

    def export(self, path: str) -> None:
        """Write result.json, the transform or, by the engine, a page for the patient's file."""
        if path.endswith(".html"):
            self._said = ("busy", _("Writing the page..."))
            nodes = self.panel.register.images()
            self.logic.report(self.ct, nodes, path, blocking=False, on_done=self._reported, on_error=self._not_reported)
            self.panel.wake()
            self.panel.refresh()
            return
        self._try(lambda: self.logic.export(self.ct, self.fluoroscopy, path), _("Written."))

    def _reported(self, path: Any) -> None:
        self._said = ("good", _("Written."))
        self.panel.refresh()

    def _not_reported(self, error: Exception) -> None:
        self._said = self.panel.explain(error)
        self.panel.refresh()

    def _try(self, action: Any, said: str) -> None:
        try:
            action()
            self._said = ("good", said)
        except InputError as error:
            self._said = self.panel.explain(error)
        self.panel.refresh()

    # What is shown

    def new_result(self) -> None:
        """A registration has ended or another image was chosen: its history, its synthetic X-ray."""
        self._said = None
        self._read_history()
        self.moved()

    def _read_history(self) -> None:
        """The steps of the last result, with the replay at its end; none where there is no result."""
        self._hypothesis = 0
        has_image = self.fluoroscopy is not None and fluoro.is_fluoroscopy(self.fluoroscopy)
        result = results.get_result(self.fluoroscopy, self.ct) if has_image and self.ct is not None else None
        self._history = results.get_history(self.fluoroscopy) if result is not None else []
        slider = self.ui.replaySlider
        blocked = slider.blockSignals(True)
        slider.maximum = max(len(self._history) - 1, 0)
        slider.value = slider.maximum
        slider.blockSignals(blocked)
        self._show_replay(slider.value)

    def _show_replay(self, index: int) -> None:
        step = self._history[index] if 0 <= index < len(self._history) else None
        text = ""
        if step is not None:
            text = _("Replay: step {step} of {steps}, similarity {similarity:.3f}").format(
                step=index + 1, steps=len(self._history), similarity=step["similarity"]
            )
        self.ui.replayTextLabel.text = text

    def refresh(self) -> None:
        ui, panel = self.ui, self.panel
        ready = self.ct is not None and panel.carm_of_image() is not None
        result = results.get_result(self.fluoroscopy, self.ct) if ready else None
        running = panel.busy_registering
        why = _("Wait until the registration has ended.") if running else _("Register first.")
        accepted = result is not None and results.is_accepted(self.fluoroscopy)
        can_accept = result is not None and not running and not accepted and self._is_result_shown()
        if result is not None and not running:
            why = _("Accepted.") if accepted else self._elsewhere()
        status.enable(ui.acceptButton, can_accept, _("Keep this pose.") if can_accept else why)
        trusted = result is not None and bool(result.get("trust", {}).get("trusted"))
        status.accent(ui.acceptButton, can_accept and trusted)  # what is not trusted is looked at first
        can_undo = ready and not running and placement.find_transform(self.ct) is not None and results.can_undo(self.ct)
        status.enable(
            ui.undoButton, can_undo, _("Put the CT back where it lay before.") if can_undo else _("Nothing to undo.")
        )
        can_export = result is not None and not running
        why = _("Wait until the registration has ended.") if running else _("Register first.")
        status.enable(
            ui.exportButton,
            can_export,
            _("Write result.json, a page for the patient's file, or the transform as an ITK file.")
            if can_export
            else why,
        )
        can_replay = bool(self._history) and not running
        for widget in (ui.replayLabel, ui.replaySlider, ui.replayTextLabel):
            widget.visible = can_replay
        self._show_hypotheses(result, running)
        self._show_landmarks(ready and not running)
        need = _("Choose a CT and a fluoroscopy first.")
        tips = {
            ui.blendSlider: _("From the fluoroscopy (0 %) to the synthetic X-ray of the CT (100 %)."),
            ui.flickerButton: _("Show one after the other, twice a second."),
            ui.checkerboardButton: _("Alternate squares of both."),
            ui.edgesButton: _("The synthetic X-ray's edges over the fluoroscopy."),
            ui.differenceButton: _("What is left when one is taken from the other: flat grey where they agree."),
            ui.lookButton: _("See the CT in 3D as the C-arm does."),
            ui.volumeRenderingButton: _("Show the CT itself in 3D. Slow without a graphics card."),
        }
        for widget, tip in tips.items():
            status.enable(widget, ready, tip if ready else need)
        status.show(ui.reviewStateLabel, *self._state(ready, result, accepted))

    def _state(self, ready: bool, result: Any, accepted: bool) -> tuple[str, str]:
        if self.panel.busy_registering:
            return "busy", _("Wait until the registration has ended.")
        if self._said is not None:
            return self._said
        if not ready:
            return "idle", _("Nothing to review yet.")
        if result is None:
            return "idle", _("Not registered: the synthetic X-ray shows the CT as it lies now.")
        if accepted and self._is_result_shown():
            return "good", _("Accepted.")
        if not self._is_result_shown():
            return "idle", self._elsewhere()
        if result.get("warnings"):
            return "warn", " ".join(result["warnings"])
        return "ready", _("Do bones lie over their images? Accept, or undo.")

    @property
    def settled(self) -> bool:
        """Whether there is a result to judge or one that was accepted: nothing asks for a registration."""
        if self.ct is None or self.panel.carm_of_image() is None:
            return False
        result = results.get_result(self.fluoroscopy, self.ct)
        return result is not None and (results.is_accepted(self.fluoroscopy) or not self._was_moved())

    def _was_moved(self) -> bool:
        """Whether the CT lies elsewhere than its result has it, and not for the replay."""
        return not self._is_result_shown() and self.ui.replaySlider.value >= self.ui.replaySlider.maximum

    def _is_result_shown(self) -> bool:
        """Whether what is seen is the result, or another pose of it that fits as well."""
        return bool(self.logic.shows_result(self.ct, self.fluoroscopy, self._hypothesis))

    def _elsewhere(self) -> str:
        if self.ui.replaySlider.value < self.ui.replaySlider.maximum:
            return _("This is a step on the way: move the replay to its end.")
        return _("The CT was moved since it was registered: register from there, or undo.")

    def forget_message(self) -> None:
        """Other images were chosen."""
        self._said = None

    def close(self) -> None:
        self._flicker.stop()
        self.drr.drop()


def _as_good(result: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The poses of a result that explain the image about equally well, the best first."""
    poses = list(result.get("hypotheses", ())) if result is not None else []
    return [pose for pose in poses if (pose.get("probability") or 0.0) >= _AS_GOOD]
