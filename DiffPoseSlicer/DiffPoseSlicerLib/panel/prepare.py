"""Step 2, Prepare: train a model of this patient in the background, watch it, keep or delete it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import qt
import slicer.util
from slicer.i18n import tr as _

from ..errors import InputError
from ..pretraining import job as jobs
from ..scene import prepare
from . import packages, settings, status, training_plot
from .steps import Step

_WATCH_MS = 500


class PrepareStep(Step):
    """Starts, watches and ends preparations. What it shows is read from the job's folder, whoever works on it."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        ui.prepareButton.connect("clicked()", self.prepare)
        ui.pauseButton.connect("clicked()", self.pause)
        ui.stopButton.connect("clicked()", self.stop)
        ui.deleteModelButton.connect("clicked()", self.delete)
        ui.openModelButton.connect("clicked()", self.open_folder)
        ui.certificateButton.connect("clicked()", self.open_certificate)
        ui.installTorchButton.connect("clicked()", self.install)
        ui.modelsTree.connect("itemSelectionChanged()", self._selection_changed)
        ui.modelsTree.setHeaderLabels([_("Model"), _("State"), _("Size")])
        self._task: Any = None
        self._said: tuple[str, str] | None = None
        self._status: dict[str, Any] = {"state": "new"}
        self._listed: list[Any] = []
        self._seen: Any = None
        self._started_at: float | None = None
        self._elsewhere = False  # whether something is under way while no CT is chosen
        self._timer = qt.QTimer()
        self._timer.setInterval(_WATCH_MS)
        self._timer.connect("timeout()", self.watch)
        self._plot_soon = qt.QTimer()  # in a turn of its own
        self._plot_soon.setSingleShot(True)
        self._plot_soon.setInterval(0)
        self._plot_soon.connect("timeout()", self._plot)

    @property
    def folder(self) -> Path | None:
        """The job that the panel watches, or None."""
        parameters = self.panel.parameters
        return Path(parameters.job) if parameters is not None and parameters.job else None

    @property
    def active(self) -> bool:
        """Whether a preparation is under way (perhaps paused)."""
        return self._status.get("state") in jobs.ACTIVE

    # What the buttons do

    def prepare(self) -> None:
        """Start a preparation, or go on with one that was interrupted or stopped."""
        parameters, carm = self.panel.parameters, self.panel.carm()
        if self.ct is None or carm is None or self._task is not None:
            return
        self._said = None
        self._task = self.logic.pretrain(
            self.ct,
            carm,
            **self._order(),
            preset=parameters.quality.value,
            python=settings.python(),
            environment=settings.environment(),
            blocking=False,
            on_done=self._started,
            on_error=self._failed,
        )
        self.panel.wake()
        self.panel.refresh()

    def _order(self) -> dict[str, Any]:
        """What the panel says a preparation is for."""
        p = self.panel.parameters
        return {
            "view": p.view.value,
            "lao_rao": p.laoRao,
            "cran_caud": p.cranCaud,
            "rotation": [p.rotation] * 3,
            "translation": [p.shift, p.shift, 2 * p.shift],
        }

    def _started(self, folder: Path) -> None:
        self._task = None
        self._started_at = time.time()
        self._status = {"state": "starting"}
        self.panel.parameters.job = str(folder)
        self._timer.start()
        self.panel.layout_changed()
        self.panel.refresh()

    def _failed(self, error: Exception) -> None:
        self._task = None
        self._said = self.panel.explain(error)
        self.panel.refresh()

    def pause(self) -> None:
        """Pause a running preparation, or let a paused one go on."""
        if self.folder is not None:
            (jobs.request_resume if self._status.get("state") == "paused" else jobs.request_pause)(self.folder)
            self.watch()

    def stop(self) -> None:
        """End the preparation; what it has learnt so far is kept and can be gone on with."""
        if self._task is not None:
            self._task.cancel()
        elif self.folder is not None:
            jobs.request_stop(self.folder)
            self.watch()

    def delete(self) -> None:
        """Delete the chosen model, after asking."""
        model = self._chosen()
        question = _("Delete this model from this computer? Preparing it again takes as long as before.")
        if model is None or not slicer.util.confirmOkCancelDisplay(question, _("Delete model")):
            return
        try:
            prepare.delete(model.folder)
        except InputError as error:
            self._said = self.panel.explain(error)
        if self.folder == model.folder:
            self.panel.parameters.job = ""
            self._status = {"state": "new"}
        self.list_models()
        self.panel.refresh()

    def open_folder(self) -> None:
        """Show the chosen model's folder in the system's file manager."""
        model = self._chosen()
        if model is not None:
            self.browse(model.folder)

    def open_certificate(self) -> None:
        """Show the chosen model's certificate in the browser."""
        model = self._chosen()
        if model is not None and model.report is not None:
            self.browse(model.report)

    def browse(self, path: Path) -> None:
        """Open a file or a folder with what the system has for it."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path)))

    def install(self) -> None:
        """Install what a preparation needs, after asking for each; stop at the first that is declined or fails."""
        self._said = None
        for need in packages.missing_to_prepare():
            reason = _("Preparing a patient trains a network, which needs {name}.").format(name=need.distribution)
            try:
                if not (packages.has(need) or packages.install(need, reason)):
                    break
            except Exception as error:  # pip's and PyTorch's own
                self._said = ("bad", _("The installation failed: {reason}").format(reason=error))
                break
        self.panel.refresh()

    # Watching

    def found_again(self) -> None:
        """A scene or the module was opened: look after the job it names, which may have gone on meanwhile."""
        self._seen = self._started_at = None
        self._status = {"state": "new"}
        self._elsewhere = self.ct is None and any(jobs.is_running(model.folder) for model in self.logic.models())
        if self.folder is not None and (self.folder / "job.json").is_file():
            self._timer.start()
            self.watch()

    def _take_up(self) -> None:
        """Watch what is under way for this CT or was cut off, perhaps since another session; let go of another CT's."""
        if self.logic.loaded(self.ct) is None or self._task is not None:
            return
        if self.folder is not None and self.folder not in [model.folder for model in self._listed]:
            self.panel.parameters.job = ""  # it goes on by itself, and is found again with its CT
            self.found_again()
        unfinished = [m for m in self._listed if m.status.get("state") in (*jobs.ACTIVE, "interrupted")]
        if self.folder is not None or not unfinished:
            return
        model = next((m for m in unfinished if m.status["state"] in jobs.ACTIVE), unfinished[0])
        self.panel.take_over_order(model)
        self.panel.parameters.job = str(model.folder)
        self.found_again()
        self.panel.layout_changed()

    def watch(self) -> None:
        """Read the job's figures; stop the timer once it has ended."""
        folder = self.folder
        if folder is None:
            self._timer.stop()
            return
        was_active = self.active
        self._status = self._read(folder)
        mark = (self._status.get("state"), self._status.get("step"), self._status.get("heartbeat"))
        if mark != self._seen:
            another_state = self._seen is None or self._seen[0] != mark[0]
            self._seen = mark
            self._plot_soon.start()
            if another_state:
                self.panel.refresh()
            else:
                self.refresh()
        if not self.active and self._status.get("state") != "new":
            self._timer.stop()
            if was_active:
                self.list_models()
                self.panel.refresh()

    def _plot(self) -> None:
        folder = self.folder
        if folder is not None and self.panel.layout.shown:
            owner, view = self.panel.parameters.parameterNode, self.panel.layout.plot_view()
            training_plot.show(owner, jobs.read_progress(folder), view)

    def _read(self, folder: Path) -> dict[str, Any]:
        """The job's status; "starting" while its process has not yet shown a sign of life."""
        found = jobs.read_status(folder)
        if self._started_at is None:
            return found
        if float(found.get("heartbeat") or 0.0) > self._started_at or jobs.is_running(folder):
            self._started_at = None
        elif time.time() - self._started_at < prepare.START_S and not jobs.has_ended(folder):
            return {"state": "starting"}
        else:
            self._started_at = None
            return prepare.not_started(folder)
        return found

    def list_models(self) -> None:
        """Read again what is prepared for this CT."""
        self._listed = self.logic.models(self.ct) if self.ct is not None else []
        tree = self.ui.modelsTree
        tree.clear()
        for model in self._listed:
            item = qt.QTreeWidgetItem()
            item.setText(0, describe_model(model))
            item.setText(1, describe_state(model.status, model.usable))
            item.setToolTip(1, describe_certificate(model.certificate))
            item.setText(2, _("{size:.0f} MB").format(size=model.size / 1e6))
            item.setToolTip(0, str(model.folder))
            tree.addTopLevelItem(item)
        for column in range(3):
            tree.resizeColumnToContents(column)
        if self._listed:
            tree.setCurrentItem(tree.topLevelItem(0))
        self._selection_changed()
        self._take_up()

    def _chosen(self) -> Any:
        items = self.ui.modelsTree.selectedItems()
        index = self.ui.modelsTree.indexOfTopLevelItem(items[0]) if items else -1
        return self._listed[index] if 0 <= index < len(self._listed) else None

    def _selection_changed(self) -> None:
        model = self._chosen()
        chosen = model is not None
        why = _("Choose a model in the list.")
        certified = chosen and model.report is not None
        without = _("This model has no certificate yet.") if chosen else why
        tip = _("Show how often registration found the pose from this model, on simulated images.")
        status.enable(self.ui.certificateButton, certified, tip if certified else without)
        status.enable(self.ui.deleteModelButton, chosen, _("Delete the chosen model.") if chosen else why)
        status.enable(self.ui.openModelButton, chosen, _("Open the chosen model's folder.") if chosen else why)

    # What is shown

    def refresh(self) -> None:
        ui = self.ui
        state = str(self._status.get("state", "new"))
        missing = packages.missing_to_prepare()
        allowed, why = self._may_prepare(missing)
        self.open(ui.prepareSection, allowed and self.fluoroscopy is None)
        going_on = state in ("interrupted", "stopped") and self._same_order()
        ui.prepareButton.text = _("Resume") if going_on else _("Prepare")
        tip = _("Learn how this patient's CT looks from this view. Goes on in the background.")
        status.enable(ui.prepareButton, allowed, tip if allowed else why)
        ui.pauseButton.text = _("Resume") if state == "paused" else _("Pause")
        running = state in ("running", "paused")
        status.enable(ui.pauseButton, running, _("Wait; Resume goes on.") if running else _("Nothing is running."))
        stoppable = self.active or self._task is not None
        tip = _("End it; what it has learnt is kept.") if stoppable else _("Nothing is running.")
        status.enable(ui.stopButton, stoppable, tip)
        ui.installTorchButton.visible = bool(missing)
        if missing:
            names = _(" and ").join(f"{need.distribution} ({need.size})" for need in missing)
            ui.installTorchButton.text = _("Install {names}...").format(names=names)
        for widget in (ui.trainingBar, ui.trainingLabel):
            widget.visible = self.active
        if self.active:
            done, text = round(1000 * fraction_done(self._status)), describe_progress(self._status)
            if ui.trainingBar.value != done:  # a progress bar paints itself at once
                ui.trainingBar.value = done
            if ui.trainingLabel.text != text:
                ui.trainingLabel.text = text
        for widget in (ui.modelsTree, ui.certificateButton, ui.deleteModelButton, ui.openModelButton):
            widget.visible = bool(self._listed)
        status.show(ui.prepareStateLabel, *self._state(state, missing, why))

    def _may_prepare(self, missing: list[Any]) -> tuple[bool, str]:
        if self.ct is None:
            return False, _("Choose the patient's CT first.")
        if self.panel.carm() is None:
            return False, _("Give the C-arm's geometry first: choose a preset in step Images.")
        if missing:
            return False, _("Install what is missing first.")
        if not packages.can_register():
            return False, _("Install NVIDIA Warp first (step Register).")
        if self._task is not None or self.active:
            return False, _("A preparation is under way.")
        return True, ""

    def _same_order(self) -> bool:
        """Whether what the panel says is what the watched job is for: then Prepare goes on with it."""
        loaded, carm = self.logic.loaded(self.ct), self.panel.carm()
        if carm is None or self.folder is None:
            return False
        if loaded is None:  # the CT is on its way to the engine
            return True
        order, quality = prepare.order(carm, loaded, **self._order()), self.panel.parameters.quality.value
        return prepare.job_folder(self.logic.models_folder, loaded.key, order, quality) == self.folder

    def _state(self, state: str, missing: list[Any], why: str) -> tuple[str, str]:
        if self._said is not None:
            return self._said
        if self._task is not None:
            return "busy", _("The CT is handed on...")
        then = _("Resume goes on from where it was.") if self._same_order() else _("Prepare begins another one.")
        if self.ct is None:
            then = _("Choose its CT to go on.")
        texts = {
            "starting": ("busy", _("Starting: reading the CT.")),
            "running": ("busy", _("Learning how this patient looks. You may go on working.")),
            "certifying": ("busy", _("Testing the model on X-rays it has never seen.")),
            "paused": ("warn", _("Paused.")),
            "interrupted": ("warn", _("Interrupted: its process ended. {then}").format(then=then)),
            "stopped": ("warn", _("Stopped. {then}").format(then=then)),
            "failed": (
                "bad",
                str(self._status.get("message") or _("The preparation failed; see log.txt in its folder.")),
            ),
        }
        if state == "done":
            return _prepared(self._status.get("certificate"))
        if state in texts:
            return texts[state]
        if self._elsewhere:
            return "busy", _("A preparation is under way on this computer: choose its CT to watch it.")
        if missing:
            names = _(" and ").join(need.distribution for need in missing)
            text = _("Preparing trains a network with {names}, not installed yet. Registration works without.")
            return "warn", text.format(names=names)
        if why:
            return "idle", why
        if any(model.usable for model in self._listed):
            return "good", _("This patient is prepared.")
        return "idle", _("Not prepared. Registration then searches from the view, which takes longer.")

    def close(self) -> None:
        self._timer.stop()
        self._plot_soon.stop()
        if self.folder is not None and self.active and not settings.keep_training():
            jobs.request_stop(self.folder)


def fraction_done(state: dict[str, Any]) -> float:
    """How far a job is, 0..1, from its status."""
    seconds, left = state.get("seconds") or 0.0, state.get("secondsLeft")
    if left is None:
        return 0.0
    return seconds / (seconds + left) if seconds else 0.0


def describe_progress(state: dict[str, Any]) -> str:
    """Time left, error, success in one line."""
    parts = []
    left = state.get("secondsLeft")
    if state.get("state") == "certifying":
        if state.get("cases"):
            tried = _("{cases} simulated images tried, {rate:.0f} % within 1 mm")
            parts.append(tried.format(cases=state["cases"], rate=100 * (state.get("successRate") or 0.0)))
    elif left is not None:
        parts.append(_("{minutes}:{seconds:02d} left").format(minutes=int(left) // 60, seconds=int(left) % 60))
    if state.get("validationMtreMm") is not None:
        parts.append(_("error of the first guess {error:.1f} mm").format(error=state["validationMtreMm"]))
    if state.get("validationSuccess") is not None:
        parts.append(_("success {success:.0f} %").format(success=100 * state["validationSuccess"]))
    if state.get("device"):
        parts.append(_("on {device}").format(device=state["device"]))
    return " · ".join(parts)


def describe_model(model: prepare.Prepared) -> str:
    """A model in a few words: view, angles, preset."""
    angles = "".join(
        f" {abs(value):.0f}° {positive if value > 0 else negative}"
        for value, positive, negative in ((model.lao_rao, "LAO", "RAO"), (model.cran_caud, "CRA", "CAU"))
        if value
    )
    return f"{model.view.replace('_', ' ').capitalize() if len(model.view) > 2 else model.view}{angles}, {model.preset}"


def describe_state(state: dict[str, Any], usable: bool) -> str:
    """Certificate or state of a model in a few words."""
    certificate = state.get("certificate")
    if isinstance(certificate, dict) and certificate.get("success") is not None:
        text = _("certified {rate:.1f} %") if certificate.get("certified") else _("not certified, {rate:.0f} %")
        return text.format(rate=100 * certificate["success"])
    if usable and state.get("validationMtreMm") is not None:
        return _("first guess {error:.1f} mm").format(error=state["validationMtreMm"])
    return str(state.get("state", ""))


def describe_certificate(certificate: dict[str, Any] | None) -> str:
    """What a certificate says: the success rate, how sure it is, and why it certifies nothing; "" for none."""
    if not certificate or certificate.get("success") is None:
        return ""
    text = _("{rate:.1f} % of {cases} simulated images were registered within 1 mm ({low:.1f} to {high:.1f} %)")
    low, high = certificate.get("interval") or (0.0, 1.0)
    figures = {"rate": certificate["success"], "low": low, "high": high}
    text = text.format(cases=certificate.get("cases", 0), **{key: 100 * value for key, value in figures.items()})
    return "; ".join([text, *certificate.get("reasons", ())])


def _prepared(certificate: Any) -> tuple[str, str]:
    """(kind, sentence) of a preparation that has ended well."""
    found = certificate if isinstance(certificate, dict) else None
    text = describe_certificate(found)
    if found is None or not text:
        return "good", _("Prepared: registration can start from this model.")
    if found.get("certified"):
        return "good", _("Prepared and certified: {figures}.").format(figures=text)
    return "warn", _("Prepared, but not certified: {figures}. Look at each result.").format(figures=text)
