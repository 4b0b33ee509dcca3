"""Step 3, Register: one button that becomes Stop, and what came of it."""

from __future__ import annotations

import time
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..scene import fluoroscopy as fluoro
from ..scene import placement, region, results
from . import packages, status
from .parameters import Start
from .steps import Step
from .verdict import trust_line


class RegisterStep(Step):
    """Runs registrations."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.ui.registerButton.connect("clicked()", self.toggle)
        self.ui.installWarpButton.connect("clicked()", self.install)
        self.ui.moveButton.connect("toggled(bool)", self.move_by_hand)
        for place in (self.ui.pointsPlace, self.ui.seenPlace):
            place.placeMultipleMarkups = slicer.qSlicerMarkupsPlaceWidget.ForcePlaceMultipleMarkups
        self.task: Any = None
        self._said: tuple[str, str] | None = None
        self._latest: dict[str, Any] | None = None
        self._refreshed = 0.0
        self._moved: Any = None  # the transform whose handles are shown

    def toggle(self) -> None:
        """Register, or stop."""
        if self.task is not None:
            self.task.cancel()
            self.ui.registerButton.enabled = False
        else:
            self.register()

    def register(self, start: str | None = None) -> None:
        """Register the chosen fluoroscopy to the chosen CT, from `start` or what the panel says."""
        if self.task is not None or not self._may_register()[0]:
            return
        parameters = self.panel.parameters
        self._said, self._latest = None, None
        self.ui.moveButton.checked = False
        self.panel.review.forget_message()
        nodes = self.images()
        begin: Any = start or parameters.start.value
        if begin == Start.LANDMARKS.value:
            begin = {"landmarks": (parameters.points, parameters.seen)}
        self.task = self.logic.register(
            self.ct,
            nodes,
            begin,
            region=self._region(),
            blocking=False,
            on_progress=self._progress,
            on_done=self._done,
            on_error=self._failed,
        )
        self.panel.wake()
        self.panel.layout_changed()  # the plot of a preparation that has ended makes room
        self.panel.refresh()

    def move_by_hand(self, on: bool) -> None:
        """Show handles in the 3D view that move the CT, or hide them. What they leave is where registration starts."""
        if self._moved is not None:
            placement.hide_handles(self._moved)
            self._moved = None
        if on and self.ct is not None:
            self._moved = self.logic.show_handles(self.ct)
            self.panel.parameters.start = Start.CURRENT

    def images(self) -> list[Any]:
        """The fluoroscopies that are registered together: the chosen one, and the second view where there is one."""
        return [self.fluoroscopy] if self._second() is None else [self.fluoroscopy, self._second()]

    def _progress(self, step: dict[str, Any]) -> None:
        self._latest = step
        now = time.perf_counter()
        if now - self._refreshed > 0.1:
            self._refreshed = now
            status.show(self.ui.registerStateLabel, *self._state())

    def _done(self, _result: dict[str, Any]) -> None:
        self.task = None
        self.ui.reviewSection.collapsed = False
        self.panel.registered()

    def _failed(self, error: Exception) -> None:
        self.task = None
        self._said = self.panel.explain(error)
        if self._said[0] == "warn":
            self._said = ("warn", _("Stopped: the CT lies where it was."))
        self.panel.refresh()

    def forget_message(self) -> None:
        """Other images were chosen: what was said about the last run is over."""
        self.ui.moveButton.checked = False
        if self.task is None:
            self._said = None

    def install(self) -> None:
        """Install NVIDIA Warp, after asking."""
        reason = _("Registration renders synthetic X-rays with NVIDIA Warp, on the graphics card or the processor.")
        self._said = None
        try:
            packages.install(packages.WARP, reason)
        except Exception as error:  # pip's own
            self._said = ("bad", _("The installation failed: {reason}").format(reason=error))
        self.panel.refresh()
        self.panel.warm_up()

    # What is shown

    def refresh(self) -> None:
        ui, running = self.ui, self.task is not None
        allowed, why = self._may_register()
        self.open(ui.registerSection, allowed or not packages.can_register())
        ui.registerButton.text = _("Stop") if running else _("Register")
        tip = _("Stop; the CT goes back to where it lay.") if running else _("Find the C-arm's pose.")
        status.enable(ui.registerButton, running or allowed, tip if running or allowed else why)
        result = self._result()
        status.accent(ui.registerButton, allowed and not running and not self.panel.review.settled)
        ui.startCombo.enabled = not running
        movable = not running and placement.find_transform(self.ct) is not None
        tip = _("Show handles in the 3D view that move the CT; registration then starts from there.")
        if not movable:
            tip = why or _("Wait until the registration has ended.")
            ui.moveButton.checked = False
        status.enable(ui.moveButton, movable, tip)
        self._show_landmarks(self.panel.parameters)
        ui.installWarpButton.visible = not packages.can_register()
        if not packages.can_register():
            ui.installWarpButton.text = _("Install NVIDIA Warp (about {size})...").format(size=packages.WARP.size)
        status.show(ui.registerStateLabel, *self._state())
        text = "" if result is None or running else describe_details(result)
        ui.registerDetailLabel.visible = bool(text)
        ui.registerDetailLabel.text = text

    def _show_landmarks(self, p: Any) -> None:
        """The point lists, where the registration starts from them, each with a button to place points."""
        ui, shown = self.ui, p is not None and p.start is Start.LANDMARKS
        for widget in (ui.pointsLabel, ui.pointsBox, ui.seenLabel, ui.seenBox):
            widget.visible = shown
        for place, node in ((ui.pointsPlace, p.points), (ui.seenPlace, p.seen)) if p is not None else ():
            if place.currentNode() is not node:
                place.setCurrentNode(node)
            if place.placeModeEnabled and not shown:
                place.placeModeEnabled = False

    def _result(self) -> dict[str, Any] | None:
        if self.fluoroscopy is None or self.ct is None or not fluoro.is_fluoroscopy(self.fluoroscopy):
            return None
        return results.get_result(self.fluoroscopy, self.ct)

    def _region(self) -> Any:
        """The part of the CT that is registered, as the logic takes it; None for all of it."""
        p = self.panel.parameters
        if p.region is None:
            return None
        return (p.region, p.segment) if region.segments(p.region) else p.region

    def _second(self) -> Any:
        """The second view, or None."""
        parameters = self.panel.parameters
        node = parameters.second if parameters is not None else None
        return node if node is not self.fluoroscopy else None

    def _may_register(self) -> tuple[bool, str]:
        if self.ct is None or not fluoro.is_fluoroscopy(self.fluoroscopy):
            return False, _("Choose a CT and a fluoroscopy first.")
        if fluoro.get_carm(self.fluoroscopy) is None:
            return False, _("Give the fluoroscopy's geometry first.")
        p = self.panel.parameters
        if p.start is Start.LANDMARKS and (p.points is None or p.seen is None):
            return False, _("Choose the two point lists: in the CT, and the same points on the image.")
        second = self._second()
        if second is not None and (not fluoro.is_fluoroscopy(second) or fluoro.get_carm(second) is None):
            return False, _("The geometry of the second view is not known: choose it in step Images once.")
        if not packages.can_register():
            return False, _("Install NVIDIA Warp first: registration renders synthetic X-rays with it.")
        return True, ""

    def _state(self) -> tuple[str, str]:
        if self.task is not None:
            if self._latest is None:
                return "busy", _("Handing the images to the engine...")
            return "busy", _("Registering: step {step}, similarity {similarity:.3f}, {seconds:.1f} s").format(
                step=self._latest["iteration"],
                similarity=self._latest["similarity"],
                seconds=self._latest["seconds"],
            )
        if self._said is not None:
            return self._said
        result = self._result()
        if result is not None:
            return trust_line(result, results.is_accepted(self.fluoroscopy))
        if not packages.can_register():
            return "warn", _(
                "Registration renders synthetic X-rays with NVIDIA Warp, which is not installed. Install it (about "
                "{size}) by the button below."
            ).format(size=packages.WARP.size)
        allowed, why = self._may_register()
        return ("ready", _("Ready to register.")) if allowed else ("idle", why)

    def close(self) -> None:
        self.ui.moveButton.checked = False
        if self.task is not None:
            self.task.cancel()


def describe_details(result: dict[str, Any]) -> str:
    """Time, steps, start and why it stopped, in one line."""
    parts = [
        _("{seconds:.2f} s").format(seconds=result.get("seconds", 0.0)),
        _("{steps} steps").format(steps=result.get("iterations", 0)),
        _("similarity {similarity:.3f}").format(similarity=result["views"][0].get("similarity") or 0.0),
    ]
    if result.get("start"):
        parts.append(_("start: {start}").format(start=result["start"]))
    if result.get("stopped"):
        parts.append(_("stopped: {reason}").format(reason=result["stopped"]))
    return " · ".join(parts)
