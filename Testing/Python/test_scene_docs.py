"""docs/slicer-console.md is run, block by block, on the scene and the real engine."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import slicer

import scene_support as kit
from DiffPoseSlicerLib.geometry.pose import Pose, view_rotation
from DiffPoseSlicerLib.pretraining import settings
from DiffPoseSlicerLib.scene.logic import SceneLogic

PAGE = Path(__file__).resolve().parents[2] / "docs" / "slicer-console.md"


def test_the_console_page_runs_as_written(small_ct, tmp_path, monkeypatch):
    from DiffPoseSlicerLib import render

    monkeypatch.setitem(settings.PRESETS, "quick", settings.PRESETS["tiny"])
    monkeypatch.chdir(tmp_path)
    kit.CORE.clear()
    truth = Pose.about(view_rotation("AP"), small_ct.center, kit.CARM, [0.05, -0.04, 0.03, 5, -6, 8])
    image = (4000 * np.exp(-render(small_ct, kit.CARM, truth, device="cpu"))).astype(np.int16)
    logic = SceneLogic(slicer.mrmlScene, device="cpu")
    logic.models_folder = tmp_path / "models"
    monkeypatch.setattr(slicer.util, "getModuleLogic", lambda name: logic)
    names = {"slicer": slicer, "ct": kit.ct_node(small_ct), "fluoroscopy": kit.fluoroscopy_node(image)}
    try:
        blocks = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        assert len(blocks) >= 6
        for block in blocks:
            exec(compile(block, PAGE.name, "exec"), names)
        assert {"result.json", "ct_to_carm.tfm"} <= {path.name for path in tmp_path.iterdir()}
        assert names["result"]["start"] == "model" and logic.result(names["fluoroscopy"]) is not None
    finally:
        logic.close()
        kit.CORE.clear()
