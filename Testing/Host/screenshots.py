"""Drives the real panel by mouse and keyboard through the whole story and takes its pictures.

    python3 Testing/run.py screenshots                       # everything; about eight minutes, most of it training
    python3 Testing/run.py screenshots --no-training --out /tmp/pictures

The story: choose CT and fluoroscopy, give the C-arm, prepare with preset quick, register, move the CT by hand and
register from there, review, accept; on the public chest CT with the real engine and trainer. Pictures in two window
sizes, light and dark, a GIF of the live registration. Exit status 1 where something went wrong: an exception in a
slot, a stall of the event loop above 50 ms with a frame of the library on the stack, a transform update more than 100
ms after its iteration, fewer than 10 synthetic X-rays a second while the CT is dragged, a wrong pose.
"""

from __future__ import annotations

import argparse
import bisect
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing" / "Host"), str(ROOT / "DiffPoseSlicer")]
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["PYTHONPATH"] = str(ROOT / "DiffPoseSlicer")

from PySide6 import QtCore  # noqa: E402

from slicerhost import pictures  # noqa: E402
from slicerhost.app import start  # noqa: E402
from slicerhost.views import RenderWidget  # noqa: E402
from slicerhost.watchdog import Watchdog  # noqa: E402

SIZES = {"wide": (1600, 1000), "laptop": (1280, 800)}
OFFSET = [0.10, -0.06, 0.08, 8.0, -12.0, 25.0]  # the true pose about the nominal one
MOST_LAG_S, LIMIT_S, MOST_OPENING_S, LEAST_DRAWN_HZ = 0.1, 0.05, 0.5, 10.0


class Frames:
    """What the views' drawing takes while it is in use."""

    def __enter__(self) -> Frames:
        self.seconds: dict[str, list[float]] = {}
        self._draw, draw = RenderWidget.forceRender, RenderWidget.forceRender

        def timed(widget: RenderWidget) -> None:
            began, drawn = time.perf_counter(), widget.renders
            draw(widget)
            if widget.renders != drawn:  # a hidden view is not
                self.seconds.setdefault(type(widget).__name__, []).append(time.perf_counter() - began)

        RenderWidget.forceRender = timed
        return self

    def __exit__(self, *_: object) -> None:
        RenderWidget.forceRender = self._draw

    def __str__(self) -> str:
        return "drawn: " + ", ".join(
            f"{name} {len(times)} times, median {1000 * np.median(times):.0f} ms, at most {1000 * max(times):.0f} ms"
            for name, times in self.seconds.items()
        )


class Waits:
    """How long the main thread could have run but had to wait for a processor, turn by turn of the event loop.

    Where other programs keep the machine busy, that time is theirs. Linux tells it; elsewhere it counts as 0.
    """

    def __enter__(self) -> Waits:
        self._turns: list[tuple[float, float]] = []
        self._timer = QtCore.QTimer()
        self._timer.setTimerType(QtCore.Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self.look)
        self._timer.start(4)
        RenderWidget.after_drawing.append(self.look)
        self.look()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.stop()
        RenderWidget.after_drawing.remove(self.look)

    def look(self) -> None:
        """Note the time and what has been waited so far."""
        try:
            queued = int(Path("/proc/self/schedstat").read_bytes().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            queued = 0.0
        self._turns.append((time.perf_counter(), queued))

    def least(self, begin: float, end: float) -> float:
        """Seconds that were waited between two times at the very least; the end is a turn, the beginning in one."""
        times = [turn[0] for turn in self._turns]
        after = min(bisect.bisect_left(times, begin), len(times) - 1)
        before = max(after - 1, 0)
        waited = self._turns[min(bisect.bisect_left(times, end), len(times) - 1)][1]
        # As much as can be of the turn that the beginning lies in was waited before it.
        by_then = min(self._turns[after][1], self._turns[before][1] + max(begin - times[before], 0.0))
        return max(waited - by_then, 0.0)


class Story:
    """One run: the host, the panel, what was measured."""

    def __init__(self, out: Path) -> None:
        self.out, self.problems = out, []  # type: ignore[var-annotated]
        self.host = start([ROOT / "DiffPoseSlicer" / "DiffPoseSlicer.py"], testing=False)
        self.user = self.host.user
        self.host.window.resize(*SIZES["wide"])
        clock, before = time.perf_counter(), set(sys.modules)
        computed = time.thread_time()
        self.widget = self.host.open("DiffPoseSlicer")
        self.user.process_events()
        seconds, computed = time.perf_counter() - clock, time.thread_time() - computed
        heavy = {name.split(".")[0] for name in set(sys.modules) - before} & {"torch", "warp", "SimpleITK", "scipy"}
        print(
            f"opened in {seconds:.2f} s, {computed:.2f} s of them computing; imported: {sorted(heavy) or 'nothing big'}"
        )
        if computed > MOST_OPENING_S or heavy & {"torch", "warp"}:
            self.problems.append("opening the module takes too long or imports too much")
        self.panel, self.ui, self.logic = self.widget.panel, self.widget.ui, self.widget.logic
        self.number = 0
        self.watchdog: Watchdog | None = None

    def picture(self, name: str) -> None:
        """Save a picture of the whole window."""
        self.number += 1
        path = pictures.save(self.out / f"{self.number:02d}_{name}.png")
        if self.watchdog is not None:
            self.watchdog.skip()
        print(f"  {path.name}", flush=True)

    def wait(self, condition: Any, seconds: float, what: str) -> None:
        self.user.wait(condition, seconds, what)

    def rest(self) -> None:
        """Until nothing is under way."""
        self.wait(lambda: not self.logic.busy and not self.panel.review.drr.pump(), 120, "work does not end")
        self.user.process_events(0.1)

    # Scenes of the story

    def load(self) -> np.ndarray:
        """Load the images as a user does, from files; the true pose."""
        import slicer

        from DiffPoseSlicerLib import CTVolume, Pose, render
        from DiffPoseSlicerLib.evaluation.public_ct import public_ct
        from DiffPoseSlicerLib.geometry.pose import view_rotation
        from DiffPoseSlicerLib.imaging.carm_presets import preset_carm

        path = public_ct("chest")
        self.picture("empty")
        self.ct = slicer.util.loadVolume(str(path), {"name": "Chest CT", "show": False})
        ct = CTVolume.read(path)
        carm = preset_carm("mobile-flat-30", (512, 512))
        truth = Pose.about(view_rotation("AP"), ct.center, carm, OFFSET)
        photons = 30000 * np.exp(-render(ct, carm, truth))
        image = np.random.default_rng(1).poisson(photons) / 8 + 60
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Fluoroscopy 1")
        slicer.util.updateVolumeFromArray(node, image[None].clip(0, 4095).astype(np.int16))
        self.fluoroscopy = node
        return truth.camera_to_ras

    def choose(self) -> None:
        self.user.choose(self.ui.ctSelector, "Chest CT")
        self.user.choose(self.ui.fluoroscopySelector, "Fluoroscopy 1")
        self.picture("geometry_missing")
        self.user.choose(self.ui.presetCombo, "Mobile C-arm, flat panel 30 x 30 cm")
        self.wait(lambda: self.logic.loaded(self.ct) is not None, 60, "the CT does not reach the engine")
        self.rest()
        self.picture("images_ready")

    def prepare(self) -> None:
        """Train with preset quick, with pictures on the way."""
        self.user.click(self.ui.prepareSection)
        self.user.click(self.ui.prepareButton)
        for name, share in (("preparing", 0.15), ("preparing_later", 0.6)):
            self.wait(lambda share=share: self._done() >= share, 400, "the preparation does not get on")
            self.user.process_events(0.6)
            self.picture(name)
        self.wait(lambda: not self.panel.prepare.active, 600, "the preparation does not end")
        self.rest()
        self.picture("prepared")
        self.user.click(self.ui.prepareSection)

    def _done(self) -> float:
        from DiffPoseSlicerLib.panel.prepare import fraction_done

        return 1.0 if not self.panel.prepare.active else fraction_done(self.panel.prepare._status)

    def register(self, truth: np.ndarray, name: str, judged: bool = True) -> None:
        """Register; compare with the truth; how far the transform's updates lag behind the engine's iterations."""
        from DiffPoseSlicerLib.scene import placement

        register = self.panel.register
        transform = placement.find_transform(self.ct)
        heard: list[tuple[float, float]] = []  # (now, the engine's clock) for every iteration
        moved: list[tuple[float, float]] = []  # the same for every move of the transform, of the iteration it shows
        progress = register._progress

        def hear(step: dict[str, Any]) -> None:
            heard.append((time.perf_counter(), step["seconds"]))
            progress(step)

        def move(*_: Any) -> None:
            if heard and not (moved and moved[-1][1] == heard[-1][1]):
                waits.look()
                moved.append((time.perf_counter(), heard[-1][1]))

        register._progress = hear
        tag = transform.AddObserver(transform.TransformModifiedEvent, move)
        with Frames() as frames, Waits() as waits:
            self.user.click(self.ui.registerButton)
            self.wait(lambda: register.task is None, 120, "the registration does not end")
        transform.RemoveObserver(tag)
        register._progress = progress
        self.rest()
        self.picture(name)
        result = self.logic.result(self.fluoroscopy)
        # The two clocks differ by a constant and the way of the message: the quickest message had the shortest way.
        offset = min(now - engine for now, engine in heard)
        lags = [now - engine - offset for now, engine in moved]
        own = [lag - waits.least(now - lag, now) for lag, (now, _) in zip(lags, moved, strict=True)]
        span = max(moved[-1][0] - moved[0][0], 1e-6)
        found = np.array(result["views"][0]["cameraToRAS"])
        center = [*self.logic.loaded(self.ct).center, 1.0]
        error = np.linalg.norm((np.linalg.inv(found) @ center)[:3] - (np.linalg.inv(truth) @ center)[:3])
        print(
            f"{name}: {result['seconds']:.2f} s, {len(heard)} iterations, {len(moved)} moves "
            f"({(len(moved) - 1) / span:.0f} a second), median {1000 * np.median(lags):.0f} ms and at most "
            f"{1000 * max(lags):.0f} ms after their iteration ({1000 * max(own):.0f} less the wait for a processor), "
            f"centre off by {error:.2f} mm, start {result['start']}"
        )
        print(frames)
        if judged and max(own) > MOST_LAG_S:
            self.problems.append(f"a transform update came {1000 * max(own):.0f} ms after its iteration")
        if error > 1.0:
            self.problems.append(f"the centre is {error:.1f} mm off the truth")

    def drag(self, truth: np.ndarray) -> None:
        """Move the CT by its handles; the synthetic X-ray follows; registration brings it back."""
        from DiffPoseSlicerLib.scene import views

        ui, view = self.ui, self.host.app.layoutManager().threeDWidget(views.VIEW_3D).threeDView()
        self.user.click(ui.moveButton)
        self.user.process_events(0.3)
        renderer = view.renderer()
        renderer.SetWorldPoint(*self.logic.loaded(self.ct).center, 1.0)
        renderer.WorldToDisplay()
        x, y = (round(value) for value in renderer.GetDisplayPoint()[:2])
        y = view.height - 1 - y
        self.user.drag(view, (x + 3, y), (x, y), 3, button=self.user.NO_BUTTON)
        began, drawn = time.perf_counter(), self.panel.review.drr.drawn
        self.user.drag(view, (x, y), (x + 50, y - 30), 60, on_step=lambda: self.user.process_events(0.025))
        rate = (self.panel.review.drr.drawn - drawn) / (time.perf_counter() - began)
        self.rest()
        self.picture("moved_by_hand")
        print(f"dragged by hand: {rate:.0f} synthetic X-rays a second")
        if rate < LEAST_DRAWN_HZ:
            self.problems.append(f"only {rate:.1f} synthetic X-rays a second while the CT is dragged")
        self.register(truth, "registered_from_there")

    def volume(self, truth: np.ndarray) -> None:
        """The same with the CT as a volume, which software draws slowly: measured, not judged."""
        self.user.click(self.ui.undoButton)
        self.user.click(self.ui.volumeRenderingButton)
        self.rest()
        self.register(truth, "volume_rendering", judged=False)
        self.user.click(self.ui.volumeRenderingButton)
        self.rest()

    def film(self) -> None:
        """The same registration again, as a GIF. Taking pictures holds the event loop up: nothing is measured here."""
        self.user.click(self.ui.undoButton)
        self.rest()
        frames, filmed = [pictures.grab()[::2, ::2]], self.logic.live.updates
        self.user.click(self.ui.registerButton)
        while self.panel.register.task is not None:
            self.user.process_events()
            if self.logic.live.updates != filmed:
                filmed = self.logic.live.updates
                frames.append(pictures.grab()[::2, ::2])
        self.rest()
        pictures.save_gif([*frames, *[pictures.grab()[::2, ::2]] * 8], self.out / "registration.gif", 150)

    def review(self) -> None:
        ui = self.ui
        for button, name in (
            (ui.edgesButton, "edges"),
            (ui.checkerboardButton, "squares"),
            (ui.differenceButton, "difference"),
        ):
            self.user.click(button)
            self.picture(name)
        self.user.click(ui.differenceButton)
        self.user.click(ui.lookButton)
        self.picture("from_source")
        self.user.click(ui.lookButton)
        self.user.drag_slider(ui.replaySlider, 0.3)
        self.rest()
        self.picture("replay")
        self.user.drag_slider(ui.replaySlider, 1.0)
        self.rest()
        self.user.click(ui.acceptButton)
        self.picture("accepted")

    def looks(self) -> None:
        """The end of the story in both sizes, light and dark."""
        for look in ("light", "dark"):
            pictures.set_look(look)
            for name, size in SIZES.items():
                self.host.window.resize(*size)
                self.user.process_events(0.2)
                self.panel.show_images()
                self.rest()
                self.picture(f"{look}_{name}")
        pictures.set_look("light")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "screenshots", help="folder of the pictures")
    parser.add_argument("--no-training", action="store_true", help="leave step Prepare out")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as models:
        from DiffPoseSlicerLib.scene import prepare

        prepare.models_folder = lambda: Path(models)  # the user's own models stay out of it
        story = Story(arguments.out)
        story.logic.models_folder = Path(models)
        truth = story.load()
        with Watchdog(LIMIT_S) as watchdog:
            story.watchdog = watchdog
            story.choose()
            if not arguments.no_training:
                story.prepare()
            story.register(truth, "registered")
            story.drag(truth)
        story.watchdog = None
        story.volume(truth)
        story.user.choose(story.ui.startCombo, "Automatic")
        story.film()
        with Watchdog(LIMIT_S) as second:
            story.watchdog = second
            story.review()
        story.watchdog = None
        story.looks()
        stalls = watchdog.stalls + second.stalls
        blamed = [stall for stall in stalls if stall.blames("DiffPoseSlicerLib")]
        # On a busy machine the loop waits for its turn: that time is nobody's.
        ours = [stall for stall in blamed if stall.own_seconds > LIMIT_S]
        print(
            f"stalls above 50 ms: {len(stalls)}; with the library on the stack: {len(blamed)}; "
            f"of these without the wait for a processor: {len(ours)}"
        )
        for stall in sorted(blamed, key=lambda stall: -stall.own_seconds)[:12]:
            print(stall.describe("DiffPoseSlicerLib"))
        problems = story.problems + story.host.errors
        if ours:
            problems.append(f"{len(ours)} stalls of the event loop above 50 ms are the library's")
        story.host.quit()
    for problem in problems:
        print("PROBLEM:", problem)
    print(f"{story.number} pictures in {arguments.out}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
