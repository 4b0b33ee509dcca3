"""The panel's controller: the four steps, the scene they read, the timer that keeps work going."""

from __future__ import annotations

import json
from typing import Any

import qt
import slicer
import vtk
from slicer.util import VTKObservationMixin

from ..engine.client import EngineError
from ..errors import Cancelled, InputError
from ..geometry.carm import CArm
from ..scene import carm_nodes, placement, results, surface, upload
from ..scene import fluoroscopy as fluoro
from ..scene.nodes import referenced
from . import packages, status
from .engine import EngineSection
from .images import ImagesStep
from .layout import Layout
from .parameters import Quality, View
from .prepare import PrepareStep
from .registering import RegisterStep
from .review import ReviewStep

_TICK_MS = 8


class Panel(VTKObservationMixin):
    """Connects the steps with the scene.

    Args:
        ui: The widgets, by name.
        widget: The panel's own widget (parent of dialogs).
        logic: The module's logic.
    """

    def __init__(self, ui: Any, widget: Any, logic: Any) -> None:
        VTKObservationMixin.__init__(self)
        self.ui, self.widget, self.logic = ui, widget, logic
        self.parameters: Any = None
        self.entered = False
        self.layout = Layout()
        for section in (ui.prepareSection, ui.registerSection, ui.reviewSection, ui.engineSection):
            section.collapsed = True
        self._gui_tag: Any = None
        self._known: dict[str, Any] = {}
        self._observed: dict[str, Any] = {}
        self._showing: Any = None
        self._pixels: Any = None  # what tells the image that was last dealt with from another
        self._timer = qt.QTimer()
        self._timer.setInterval(_TICK_MS)
        self._timer.connect("timeout()", self._tick)
        # In turns of their own: the event loop must not wait for all of it at once.
        self._new_pixels = _later(40, self._pixels_changed)
        self._show_soon = _later(0, self.show_images)
        self._layout_soon = _later(0, self._change_layout)
        self._draw_soon = _later(0, self._draw)
        self._refresh_soon = _later(150, self.refresh)
        self._later = (self._new_pixels, self._show_soon, self._layout_soon, self._draw_soon, self._refresh_soon)
        self.images = ImagesStep(self)
        self.prepare = PrepareStep(self)
        self.register = RegisterStep(self)
        self.review = ReviewStep(self)
        self.engine = EngineSection(self)
        self.steps = (self.images, self.prepare, self.register, self.review, self.engine)
        if hasattr(logic.transport, "on_activity"):
            logic.transport.on_activity = self._activity

    # Life

    def set_parameters(self, parameters: Any) -> None:
        """Read and write these settings from now on; None while there is no scene."""
        if self.parameters is not None:
            self.parameters.disconnectGui(self._gui_tag)
            self.removeObserver(self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._parameters_modified)
        self.parameters = parameters
        self._known = {}
        if parameters is not None:
            self._gui_tag = parameters.connectGui(self.ui)
            self.addObserver(parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._parameters_modified)
            self.images.guess()
            self.prepare.found_again()
        self._parameters_modified()
        self.refresh()

    def enter(self) -> None:
        """The module is shown."""
        self.entered = True
        packages.look_again()
        self.layout.enter(with_plot=self.prepare.active)
        self.images.guess()
        self.show_images()
        self.warm_up()
        self.refresh()

    def exit(self) -> None:
        """Another module is shown."""
        self.entered = False
        self.ui.lookButton.checked = self.ui.moveButton.checked = False
        self.layout.leave()

    def scene_closes(self) -> None:
        """The scene is about to go: let go of its nodes."""
        self.register.close()
        self.review.close()
        self._forget_observed()
        self.logic.forget_scene()
        self.set_parameters(None)
        self.wake()

    def close(self) -> None:
        """The module goes away."""
        for step in self.steps:
            step.close()
        self.layout.leave()
        self._timer.stop()
        for timer in self._later:
            timer.stop()
        self._forget_observed()
        if self.parameters is not None:
            self.parameters.disconnectGui(self._gui_tag)
        self.parameters = None
        self.removeObservers()
        if hasattr(self.logic.transport, "on_activity"):
            self.logic.transport.on_activity = None
        self.logic.close()

    # Work

    def wake(self) -> None:
        """Something is under way: keep it going until it is done."""
        if not self._timer.isActive():
            self._timer.start()

    def _activity(self) -> None:
        if self.logic.busy:
            self._tick()

    def _tick(self) -> None:
        more = self.logic.poll()
        more = self.review.drr.pump() or more
        if not more and not self.logic.busy:
            self._timer.stop()

    @property
    def busy_registering(self) -> bool:
        """Whether a registration runs."""
        return self.register.task is not None

    def warm_up(self) -> None:
        """Hand the chosen CT to the engine ahead of time, so that the first registration starts at once."""
        if not self.entered or self.parameters is None or self.parameters.ct is None or not packages.can_register():
            return
        ct = self.parameters.ct
        try:
            upload.ct_array(ct)
            if self.logic.loaded(ct) is not None:
                self._ct_loaded()
            else:
                self.logic.load_ct(
                    ct, blocking=False, on_done=lambda _loaded: self._ct_loaded(), on_error=self._not_loaded
                )
                self.wake()
        except InputError:
            pass  # step Images says it

    def _ct_loaded(self) -> None:
        self.prepare.list_models()
        self.review.moved()
        self.refresh()

    def _not_loaded(self, error: Exception) -> None:
        if isinstance(error, EngineError):
            self.explain(error)

    def explain(self, error: Exception) -> tuple[str, str]:
        """(kind, sentence) for something that went wrong; what the engine said last is shown in its section."""
        if isinstance(error, EngineError):
            self.engine.failed(error)
        return status.of_error(error)

    # The images and their geometry

    def carm(self) -> CArm | None:
        """The geometry of the chosen fluoroscopy; before there is one, the C-arm last used; or None."""
        node = self.parameters.fluoroscopy if self.parameters is not None else None
        if fluoro.is_fluoroscopy(node):
            return fluoro.get_carm(node)
        return self.remembered_carm()

    def carm_of_image(self) -> CArm | None:
        """The geometry of the chosen fluoroscopy, or None where there is no such image or it has none."""
        node = self.parameters.fluoroscopy if self.parameters is not None else None
        return fluoro.get_carm(node) if fluoro.is_fluoroscopy(node) else None

    def remember_carm(self, carm: CArm) -> None:
        """Keep a geometry for images that come without one."""
        self.parameters.carm = json.dumps(carm.to_json())

    def remembered_carm(self) -> CArm | None:
        """The C-arm last used in this scene, or None."""
        if self.parameters is None or not self.parameters.carm:
            return None
        try:
            return CArm.from_json(json.loads(self.parameters.carm))
        except (InputError, ValueError):
            return None

    def images_changed(self) -> None:
        """Other images, or another geometry: place the C-arm anew and show everything."""
        self._place()
        self.refresh()
        self._show_soon.start()

    def _place(self) -> None:
        """Put the C-arm where the view says. Does nothing while something is missing: the steps say what."""
        parameters = self.parameters
        if parameters is None or parameters.ct is None or self.carm_of_image() is None:
            return
        try:
            self.logic.place_carm(
                parameters.ct, parameters.fluoroscopy, parameters.view.value, parameters.laoRao, parameters.cranCaud
            )
        except InputError:
            return
        self._observe("transform", placement.find_transform(parameters.ct),
                      slicer.vtkMRMLTransformableNode.TransformModifiedEvent, self._transform_modified)  # fmt: skip

    def show_images(self) -> None:
        """Show the fluoroscopy on its detector and what is laid over it."""
        parameters = self.parameters
        if parameters is None or not self.entered:
            return
        if self._showing is not None:
            self._showing.cancel()
            self._showing = None
        if parameters.ct is not None and self.carm_of_image() is not None:
            self._showing = self.logic.show(
                parameters.ct, parameters.fluoroscopy, blocking=False, on_done=self._shown, on_error=self._not_shown
            )
            self.wake()
        else:
            self.review.draw()

    @property
    def showing(self) -> bool:
        """Whether the images are still to be shown as they were chosen."""
        return self._showing is not None or any(t.isActive() for t in self._later)

    def _shown(self, _detector: Any) -> None:
        self._showing = None
        carm_nodes.show_only([fluoro.record(node) for node in self.register.images()])
        self.review.draw()
        self.review.moved()

    def _not_shown(self, error: Exception) -> None:
        if not isinstance(error, Cancelled):  # else there is a newer wish
            self._showing = None
            self.images._say(self.explain(error)[1])

    def registered(self) -> None:
        """A registration has ended well."""
        self.review.new_result()
        self.refresh()

    def layout_changed(self) -> None:
        """Show or hide the plot with the preparation that it shows, soon."""
        self._layout_soon.start()

    def _change_layout(self) -> None:
        if self.entered and self.layout.shown:  # else the user has chosen another one
            self.layout.enter(with_plot=self.prepare.active)
            self._draw_soon.start()

    def _draw(self) -> None:
        if self.parameters is not None:
            self.review.draw()

    def show_volume_rendering(self, on: bool) -> None:
        """Show the CT by volume rendering instead of its bone surface, or the surface again."""
        ct = self.parameters.ct
        logic = slicer.modules.volumerendering.logic()
        display = logic.GetFirstVolumeRenderingDisplayNode(ct)
        if on and display is None:
            display = logic.CreateDefaultVolumeRenderingNodes(ct)
            preset = logic.GetPresetByName("CT-Bones") or logic.GetPresetByName("CT-Bone")
            if preset is not None:
                display.GetVolumePropertyNode().Copy(preset)
        if display is not None:
            display.SetVisibility(on)
        model = referenced(ct, surface.SURFACE)
        if model is not None and model.GetDisplayNode() is not None:
            model.GetDisplayNode().SetVisibility(not on)

    # Events

    def _parameters_modified(self, _caller: Any = None, _event: Any = None) -> None:
        """Find out what the user (or a script) has changed, and act on it."""
        p = self.parameters
        now = {} if p is None else {
            "ct": p.ct, "fluoroscopy": p.fluoroscopy, "view": (p.view, p.laoRao, p.cranCaud),
            "blend": p.blend, "follow": p.follow, "carm": p.carm, "job": p.job,
            "start": p.start, "second": p.second, "points": p.points, "seen": p.seen,
            "region": (p.region, p.segment),
            "order": (p.rotation, p.shift, p.quality),
        }  # fmt: skip
        before, self._known = self._known, now
        changed = {key for key, value in now.items() if key not in before or before[key] != value}
        if not changed:
            return
        if changed & {"ct", "fluoroscopy"}:
            self._images_chosen("fluoroscopy" in changed)
        elif "view" in changed:
            self.images_changed()
        elif "blend" in changed:
            self.review.draw()
        if changed - {"blend"}:
            self.refresh()

    def _images_chosen(self, another_image: bool) -> None:
        p = self.parameters
        for step in (self.images, self.register, self.review):
            step.forget_message()
        image = p.fluoroscopy if fluoro.is_fluoroscopy(p.fluoroscopy) else None
        self._observe("image", image, slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent, self._image_modified)
        if another_image and image is not None:
            self._pixels = fluoro.pixel_stamp(image)
            known = self.carm_of_image()
            if known is not None:
                self.remember_carm(known)  # the next image may come from it, too
            self.images.take_over_geometry()
            if self.logic.c0(image) is not None:  # it has been placed before
                self.take_over_view()
        self.layout.look_anew()
        self._place()
        self.show_images()
        self.review.new_result()
        self.prepare.list_models()
        self.warm_up()

    def take_over_view(self) -> None:
        """Let the panel say the view that is stored with the fluoroscopy."""
        p = self.parameters
        view = self.logic.view(p.fluoroscopy)
        with slicer.util.NodeModify(p.parameterNode):
            p.view, p.laoRao, p.cranCaud = View(view["view"]), view["laoRao"], view["cranCaud"]
        self._known["view"] = (p.view, p.laoRao, p.cranCaud)

    def take_over_order(self, model: Any) -> None:
        """Let the panel say what a preparation that was found is for, as far as the image does not say otherwise."""
        p = self.parameters
        with slicer.util.NodeModify(p.parameterNode):
            if self.carm_of_image() is None:
                self.remember_carm(model.carm)
                p.view, p.laoRao, p.cranCaud = View(model.view), model.lao_rao, model.cran_caud
            p.rotation, p.shift = _within(model.rotation[0], 5, 60), _within(model.translation[0], 10, 150)
            if model.preset in [quality.value for quality in Quality]:
                p.quality = Quality(model.preset)

    def _observe(self, role: str, node: Any, event: Any, callback: Any) -> None:
        """Observe one node in a role, and no longer the one before."""
        before = self._observed.get(role)
        if before is not None and before[0] is not node:
            self.removeObserver(*before)
            del self._observed[role]
        if node is not None and role not in self._observed:
            self._observed[role] = (node, event, callback)
            self.addObserver(node, event, callback)

    def _forget_observed(self) -> None:
        for observed in self._observed.values():
            self.removeObserver(*observed)
        self._observed.clear()

    def _transform_modified(self, _caller: Any, _event: Any) -> None:
        """The CT moved. If by hand, its synthetic X-ray follows."""
        if not self.logic.live.moving and not self.busy_registering:
            self.review.moved()
            self.refresh_soon()

    def _image_modified(self, _caller: Any, _event: Any) -> None:
        self._new_pixels.start()

    def _pixels_changed(self) -> None:
        """The fluoroscopy shows something new: another frame, an image from the C-arm."""
        if self.parameters is None or self.carm_of_image() is None or not self.entered:
            return
        stamp = fluoro.pixel_stamp(self.parameters.fluoroscopy)
        if stamp == self._pixels:  # a browser writes its frame again whenever anything of it changes
            return
        self._pixels = stamp
        self.register.forget_message()
        self.show_images()
        self.review.new_result()
        self.refresh()
        if self.parameters.follow and not self.busy_registering and self.parameters.ct is not None:
            known = results.can_undo(self.parameters.ct) or results.get_result(self.parameters.fluoroscopy) is not None
            self.register.register("current" if known else None)

    def refresh_soon(self) -> None:
        """:meth:`refresh` once things that move have rested a moment."""
        self._refresh_soon.start()

    def refresh(self) -> None:
        """Show the present state everywhere."""
        for step in self.steps:
            step.refresh()


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _later(milliseconds: int, do: Any) -> Any:
    """A timer whose start() lets `do` be called once, later."""
    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.connect("timeout()", do)
    return timer
