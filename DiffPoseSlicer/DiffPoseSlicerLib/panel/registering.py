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

LOST = "lost"  # the engine's word for a frame in which the CT was not found
_MOST_NAMED = 8


class RegisterStep(Step):
    """Runs registrations."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.ui.registerButton.connect("clicked()", self.toggle)
        self.ui.trackButton.connect("clicked()", self.follow_run)
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
        self._run(
            lambda **watch: self.logic.register(
                self.ct,
                self.images(),
                self._start(start),
                region=self._region(),
                on_progress=self._progress,
                on_done=self._done,
                **watch,
            )
        )

    def follow_run(self) -> None:
        """Register the frame that is shown and follow the CT through the frames after it."""
        if self.task is not None or not self._may_follow()[0]:
            return
        self._run(
            lambda **watch: self.logic.track(
                self.ct,
                self.fluoroscopy,
                self._start(None),
                structure=self._region(),
                on_frame=self._progress,
                on_done=self._followed,
                **watch,
            )
        )

    def _run(self, begin: Any) -> None:
        """Start a task that the panel watches."""
        self._said, self._latest = None, None
        self.ui.moveButton.checked = False
        self.panel.review.forget_message()
        self.task = begin(blocking=False, on_error=self._failed)
        self.panel.wake()
        self.panel.layout_changed()  # the plot of a preparation that has ended makes room
        self.panel.refresh()

    def _start(self, start: str | None) -> Any:
        """Where to start, as the logic takes it: `start`, or what the panel says."""
        p = self.panel.parameters
        begin = start or p.start.value
        return {"landmarks": (p.points, p.seen)} if begin == Start.LANDMARKS.value else begin

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

    def _followed(self, _result: dict[str, Any]) -> None:
        self.task = None
        self._said = describe_run(self.logic.tracked(self.fluoroscopy))
        self.panel.registered()

    def _failed(self, error: Exception) -> None:
        followed, self.task = self.task is not None and self.task.kind == "track", None
        self._said = self.panel.explain(error)
        if self._said[0] == "warn":
            stopped = _("Stopped: the CT lies where it was.")
            self._said = ("warn", _("Stopped: the frames that were followed are kept.") if followed else stopped)
        self.panel.refresh()

    def forget_message(self) -> None:
        """Another image is shown: what was said about the last one is over."""
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
        is_run = fluoro.frame_count(self.fluoroscopy) > 1
        follows, why_not = self._may_follow()
        tip = _("Register the frame that is shown and follow the CT through the frames after it.")
        ui.trackButton.visible = is_run
        status.enable(ui.trackButton, follows and not running, tip if follows and not running else why_not)
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

    def _may_follow(self) -> tuple[bool, str]:
        allowed, why = self._may_register()
        if not allowed:
            return False, why
        if self.task is not None:
            return False, _("Wait until the registration has ended.")
        if self._second() is not None:
            return False, _("A run is followed in one view: take the second view away.")
        if self.panel.parameters.region is not None and not region.segments(self.panel.parameters.region):
            return False, _("A run is followed with the whole CT or one segment, not with a box.")
        return True, ""

    def _state(self) -> tuple[str, str]:
        if self.task is not None:
            if self._latest is None:
                return "busy", _("Handing the images to the engine...")
            if "frame" in self._latest:
                return "busy", describe_frame(self._latest, fluoro.frame_count(self.fluoroscopy))
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
        followed = self._frame_followed()
        if followed is not None:
            return followed
        if not packages.can_register():
            return "warn", _(
                "Registration renders synthetic X-rays with NVIDIA Warp, which is not installed. Install it (about "
                "{size}) by the button below."
            ).format(size=packages.WARP.size)
        allowed, why = self._may_register()
        return ("ready", _("Ready to register.")) if allowed else ("idle", why)

    def _frame_followed(self) -> tuple[str, str] | None:
        """What is known of the frame that is shown, where it was followed."""
        if self.ct is None or fluoro.frame_count(self.fluoroscopy) < 2:
            return None
        shown = results.frame_of(self.fluoroscopy)
        step = next((step for step in self.logic.tracked(self.fluoroscopy) if step["frame"] == shown), None)
        if step is None:
            return None
        if step["state"] == LOST:
            return "bad", _("Lost in this frame: register it, then follow from here.")
        return "good", _("Followed to this frame: similarity {similarity:.3f}").format(similarity=step["similarity"])

    def close(self) -> None:
        self.ui.moveButton.checked = False
        if self.task is not None:
            self.task.cancel()


def describe_frame(step: dict[str, Any], count: int) -> str:
    """How far a run is followed, in one line."""
    text = _("Following: frame {number} of {count}, similarity {similarity:.3f}")
    if step["state"] == LOST:
        text = _("Following: frame {number} of {count}, lost; looking for it")
    return text.format(number=step["frame"] + 1, count=count, similarity=step["similarity"])


def describe_run(frames: list[dict[str, Any]]) -> tuple[str, str]:
    """(kind, sentence) of a run that was followed: in which frames the CT was lost."""
    lost = [str(step["frame"] + 1) for step in frames if step["state"] == LOST]
    if not lost:
        return "good", _("Followed through {count} frames. Browse them: the CT goes along.").format(count=len(frames))
    named = ", ".join(lost[:_MOST_NAMED]) + (", ..." if len(lost) > _MOST_NAMED else "")
    text = _("Followed through {count} frames, lost in {lost} of them: {named}.")
    return "warn", text.format(count=len(frames), lost=len(lost), named=named)


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
