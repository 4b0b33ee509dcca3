"""Run inside Slicer by CTest: the module is there, complete, and light."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

import slicer


class InstalledModuleTest(unittest.TestCase):
    """What a broken installation would get wrong first."""

    def test_module_loads_with_its_resources(self) -> None:
        module = slicer.modules.diffposeslicer
        resources = Path(module.path).parent / "Resources"
        self.assertTrue((resources / "UI" / "DiffPoseSlicer.ui").is_file() or resources.parent.name == "DiffPoseSlicer")
        self.assertFalse(module.icon.isNull())

    def test_library_is_found_and_loads_neither_torch_nor_warp(self) -> None:
        before = {"torch", "warp"} & set(sys.modules)
        import DiffPoseSlicerLib

        self.assertRegex(DiffPoseSlicerLib.__version__, r"^\d+\.\d+\.\d+")
        self.assertEqual({"torch", "warp"} & set(sys.modules), before)
