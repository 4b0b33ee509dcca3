"""What goes wrong around the panel, made to go wrong for real: memory, processes, Slicer closing, a reload at work."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slicer

import scene_support as kit
import test_panel as story
from DiffPoseSlicerLib.pretraining import job
from DiffPoseSlicerLib.scene import placement
from test_panel import (  # noqa: F401  # fmt: skip
    BAD,
    MODULE,
    ROOT,
    assert_registered,
    loaded,
    panel,
    register,
    rendered,
    said,
    settle,
    sign,
    unfold,
)
from test_panel_prepare import clear_models, short  # noqa: F401

pytest_plugins = ["slicerhost.pytest_plugin"]

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]
needs_linux = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits another process, which Linux can")


def is_there(pid):
    """Whether a process exists and has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return True


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def interpreter(panel, tmp_path):
    """Let a shell script run the engine and the trainer: `interpreter("ulimit -v 1000")`; put back afterwards."""

    def choose(line):
        script = tmp_path / "python-by-hand"
        script.write_text(f'#!/bin/sh\n{line}\nexec "{sys.executable}" "$@"\n')
        script.chmod(0o755)
        panel.ui.interpreterEdit.currentPath = str(script)

    yield choose
    panel.ui.interpreterEdit.currentPath = ""


# ----------------------------------------------------------------------------------------------------------- memory
@needs_linux
def test_an_engine_without_memory_says_so_and_works_again(host, panel, small_ct, rendered):
    node, fluoro = story.with_images(panel, small_ct, rendered)
    settle(host, panel)
    register(host, panel)
    pid = panel.logic.transport.pid
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limits = resource.prlimit(pid, resource.RLIMIT_AS, (used + (48 << 20), resource.RLIM_INFINITY))
    big = kit.volume_node(np.zeros((240, 256, 256), np.int16), name="Big CT")
    panel.parameters.ct = big
    settle(host, panel)
    assert sign(panel.ui.engineLabel) == BAD and "memory" in said(panel.ui.engineLabel)
    host.user.click(panel.ui.registerButton)
    host.user.wait(lambda: panel.register.task is None, 60)
    assert sign(panel.ui.registerStateLabel) == BAD and "memory" in said(panel.ui.registerStateLabel)
    if is_there(pid):
        resource.prlimit(pid, resource.RLIMIT_AS, limits)
    panel.parameters.ct = node
    register(host, panel)
    assert_registered(panel, small_ct, node, fluoro)


def test_an_engine_that_the_system_kills_is_said_to_want_memory(host, panel, small_ct, rendered):
    story.with_images(panel, small_ct, rendered)
    settle(host, panel)
    host.user.click(panel.ui.registerButton)
    host.user.wait(lambda: panel.register._latest is not None, 30)
    os.kill(panel.logic.transport.pid, signal.SIGKILL)
    host.user.wait(lambda: panel.register.task is None, 30)
    assert "want of memory" in said(panel.ui.registerStateLabel)
    register(host, panel)
    assert "rusted" in said(panel.ui.registerStateLabel)


def test_an_engine_that_crashes_leaves_its_last_words(host, panel, small_ct, rendered, interpreter):
    interpreter('echo "no such library" >&2; exit 3;')
    story.with_images(panel, small_ct, rendered)
    register(host, panel)
    assert sign(panel.ui.registerStateLabel) == BAD and "engine ended" in said(panel.ui.registerStateLabel)
    assert sign(panel.ui.engineLabel) == BAD and "no such library" in said(panel.ui.engineLabel)


# ---------------------------------------------------------------------------------------------------------- trainer
def prepare(host, panel, ct, pixels):
    story.with_images(panel, ct, pixels)
    settle(host, panel)
    unfold(host, panel.ui.prepareSection)
    host.user.click(panel.ui.prepareButton)
    host.user.wait(lambda: panel.prepare._task is None and not panel.prepare.active, 90)


def test_a_trainer_that_cannot_run_is_said_with_its_last_words(host, panel, small_ct, rendered, short, interpreter):
    interpreter('case "$*" in *pretrain*) echo "no torch here" >&2; exit 1;; esac')
    prepare(host, panel, small_ct, rendered)
    text = said(panel.ui.prepareStateLabel)
    assert sign(panel.ui.prepareStateLabel) == BAD and "did not start" in text and "no torch here" in text
    assert panel.ui.prepareButton.enabled and not panel.ui.pauseButton.enabled
    clear_models(panel)
    unfold(host, panel.ui.prepareSection, False)


@needs_linux
def test_a_trainer_without_memory_is_said_and_can_be_tried_again(host, panel, small_ct, rendered, short, interpreter):
    interpreter('case "$*" in *pretrain*) ulimit -v 400000;; esac')
    prepare(host, panel, small_ct, rendered)
    assert sign(panel.ui.prepareStateLabel) == BAD, said(panel.ui.prepareStateLabel)
    interpreter("")
    host.user.click(panel.ui.prepareButton)
    host.user.wait(lambda: panel.prepare._task is None and not panel.prepare.active, 120)
    assert sign(panel.ui.prepareStateLabel) != BAD, said(panel.ui.prepareStateLabel)
    assert panel.logic.models()[0].usable
    panel.parameters.job = ""
    clear_models(panel)
    unfold(host, panel.ui.prepareSection, False)


def test_a_program_that_cannot_be_run_is_no_trainer(host, panel, small_ct, rendered, short, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/nowhere/to/be/found\n")
    broken.chmod(0o755)
    story.with_images(panel, small_ct, rendered)
    settle(host, panel)  # the CT has reached an engine that works
    folder = panel.logic.pretrain(panel.parameters.ct, kit.CARM, view="AP", preset="quick")
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    with pytest.raises(job.InputError, match=r"cannot be started with the interpreter python: "):
        job.start_detached(folder, broken)
    clear_models(panel)


def test_a_models_folder_that_cannot_be_written_is_said(host, panel, small_ct, rendered, tmp_path):
    (tmp_path / "file").write_text("")
    before, panel.logic.models_folder = panel.logic.models_folder, tmp_path / "file" / "models"
    try:
        prepare(host, panel, small_ct, rendered)
        assert sign(panel.ui.prepareStateLabel) == BAD and "cannot be written" in said(panel.ui.prepareStateLabel)
    finally:
        panel.logic.models_folder = before
        unfold(host, panel.ui.prepareSection, False)


# ---------------------------------------------------------------------------------------------- Slicer closes, reload
CLOSING = f"""
import json, os, sys
sys.path[:0] = [{str(ROOT)!r} + part for part in ("/Testing/Host", "/Testing/Python", "/DiffPoseSlicer")]
folder, keep, work = sys.argv[1], sys.argv[2] == "keep", sys.argv[3]
from slicerhost.app import start
host = start([{str(MODULE)!r}])
panel = host.open("DiffPoseSlicer").panel
import numpy as np
import scene_support as kit
from dataclasses import replace
from DiffPoseSlicerLib.panel import settings
from DiffPoseSlicerLib.pretraining import settings as training
training.PRESETS["quick"] = replace(training.PRESETS["tiny"], seconds=600)
settings.set_models_folder(folder)
settings.set_keep_training(keep)
panel.logic.models_folder, panel.logic.device = settings.models_folder(), "cpu"
rng = np.random.default_rng(0)
hu = np.full((40, 40, 40), -1000, np.int16)
hu[8:32, 8:32, 8:32] = rng.integers(0, 900, (6, 6, 6)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
node = kit.volume_node(hu, np.diag([5.0, 5, 5, 1]), "CT")
fluoro = kit.fluoroscopy_node(rng.normal(2, 1, kit.CARM.image_size).astype("f4"))
panel.logic.set_geometry(fluoro, kit.CARM)
panel.parameters.ct, panel.parameters.fluoroscopy = node, fluoro
host.user.wait(lambda: panel.logic.loaded(node) is not None, 60)
pids = [panel.logic.transport.pid]
if work == "training":
    host.user.click(panel.ui.prepareSection)
    host.user.click(panel.ui.prepareButton)
    host.user.wait(lambda: panel.prepare._status.get("state") == "running", 120)
    pids.append(json.load(open(os.path.join(panel.parameters.job, "status.json")))["pid"])
else:
    host.user.click(panel.ui.registerButton)
    host.user.wait(lambda: panel.register._latest is not None, 60)
print("PIDS", *pids, flush=True)
if work == "killed":
    os.kill(os.getpid(), 9)
host.quit()
print("ERRORS", len(host.errors), flush=True)
"""


@pytest.mark.parametrize(
    ("keep", "work"), [("keep", "training"), ("stop", "training"), ("keep", "registering"), ("keep", "killed")]
)
def test_slicer_closes_while_something_is_under_way(tmp_path, keep, work):
    """No engine is left behind, whether Slicer closes or is killed; a preparation goes on where the user wants it."""
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    done = subprocess.run(
        [sys.executable, "-c", CLOSING, str(tmp_path / "models"), keep, work],
        capture_output=True, text=True, env=environment, timeout=240,
    )  # fmt: skip
    assert "PIDS" in done.stdout, done.stdout + done.stderr
    engine, *trainer = map(int, re.search(r"PIDS (.*)", done.stdout)[1].split())
    assert work == "killed" or "ERRORS 0" in done.stdout, done.stdout + done.stderr
    wait_until(lambda: not is_there(engine))
    if not trainer:
        return
    folder = next((tmp_path / "models").iterdir())
    if keep == "keep":
        before = job.read_status(folder)["step"]
        wait_until(lambda: job.read_status(folder)["step"] > before, 60)
        job.request_stop(folder)
    wait_until(lambda: not is_there(trainer[0]), 60)
    assert job.read_status(folder)["state"] == "stopped"


def test_a_reload_at_work_ends_the_registration_and_watches_the_preparation_on(
    host, panel, small_ct, rendered, monkeypatch
):
    from dataclasses import replace

    from DiffPoseSlicerLib.pretraining import settings

    monkeypatch.setitem(settings.PRESETS, "quick", replace(settings.PRESETS["tiny"], seconds=600))
    node, fluoro = story.with_images(panel, small_ct, rendered)
    settle(host, panel)
    unfold(host, panel.ui.prepareSection)
    host.user.click(panel.ui.prepareButton)
    host.user.wait(lambda: panel.prepare._status.get("state") == "running", 90)
    folder = Path(panel.parameters.job)
    trainer = json.loads((folder / "status.json").read_text())["pid"]
    host.user.click(panel.ui.registerButton)
    host.user.wait(lambda: panel.register._latest is not None, 30)
    engine, models = panel.logic.transport.pid, panel.logic.models_folder
    slicer.util.reloadScriptedModule("DiffPoseSlicer")
    wait_until(lambda: not is_there(engine))
    assert is_there(trainer)
    np.testing.assert_allclose(placement.get_ct_to_world(placement.find_transform(node)), np.eye(4), atol=1e-9)
    slicer.util.selectModule("Volumes")
    new = host.open("DiffPoseSlicer").panel
    new.logic.device, new.logic.models_folder = "cpu", models
    assert new is not panel and new.parameters.job == str(folder) and new.prepare.active
    settle(host, new)
    host.user.click(new.ui.stopButton) if new.ui.stopButton.visible else new.prepare.stop()
    host.user.wait(lambda: not new.prepare.active, 60)
    wait_until(lambda: not is_there(trainer))
    new.parameters.job = ""
    register(host, new)
    assert_registered(new, small_ct, node, fluoro)
    for model in new.logic.models():
        from DiffPoseSlicerLib.scene import prepare as jobs

        jobs.delete(model.folder)
    unfold(host, new.ui.prepareSection, False)


# ----------------------------------------------------------------------------------- nothing installed, for real
BARE = f"""
import sys
sys.path.insert(0, {str(ROOT / "Testing" / "Host")!r})
import importlib.abc, importlib.metadata
GONE = {{"torch", "warp", "safetensors"}}
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
distribution = importlib.metadata.Distribution.from_name.__func__
def from_name(cls, name):
    if name in ("torch", "warp-lang", "safetensors"):
        raise importlib.metadata.PackageNotFoundError(name)
    return distribution(cls, name)
importlib.metadata.Distribution.from_name = classmethod(from_name)
from slicerhost.app import start
host = start([{str(MODULE)!r}])
ui = host.open("DiffPoseSlicer").ui
host.user.click(ui.prepareSection)
for label in (ui.prepareStateLabel, ui.registerStateLabel):
    print("SAID", label.text.split("&nbsp; ")[-1])
for button in (ui.installTorchButton, ui.installWarpButton):
    assert button.visible and button.enabled
    print("OFFERED", button.text)
assert not ui.registerButton.enabled and not ui.prepareButton.enabled
from DiffPoseSlicerLib.scene import sample_data
host.open("DiffPoseSlicer").panel.parameters.ct = sample_data.phantom_ct()
host.user.process_events(0.3)
host.user.click(ui.engineSection)
print("ERRORS", len(host.errors), sorted(GONE & set(sys.modules)))
host.quit()
"""


def test_with_nothing_installed_the_panel_opens_and_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, timeout=120)
    assert "ERRORS 0 []" in done.stdout, done.stdout + done.stderr
    assert "OFFERED Install torch (200 MB to 3 GB) and safetensors (1 MB)..." in done.stdout, done.stdout
    assert "OFFERED Install NVIDIA Warp (about 100 MB)..." in done.stdout
    training, registration = re.findall("SAID (.*)", done.stdout)
    assert "trains a network with torch and safetensors" in training and "works without" in training
    assert "renders synthetic X-rays with NVIDIA Warp" in registration and "100 MB" in registration
