"""The 3D scene of a finished demo as a picture, drawn off screen by Slicer's own displayable managers.

    python Testing/Host/demo_scene.py out/demo

Writes scene.png into the demo's folder: C-arm, detector with the fluoroscopy, and the CT's bones where the network put
them (left) and where the registration did (right).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parents[1] / "DiffPoseSlicer"))


def main(folder: Path, case: str = "median") -> int:
    """Draw the scene of one of the demo's cases ("best", "median", "worst")."""
    from slicerhost.core import start_core

    start_core()
    import slicer

    from DiffPoseSlicerLib.geometry.carm import CArm
    from DiffPoseSlicerLib.geometry.pose import Pose
    from DiffPoseSlicerLib.imaging.ct import CTVolume
    from DiffPoseSlicerLib.scene import carm_nodes, views
    from DiffPoseSlicerLib.scene.logic import SceneLogic
    from DiffPoseSlicerLib.scene.nodes import referenced, vtk_matrix
    from slicerhost.offscreen import SliceView, ThreeDView, write_png

    ct = CTVolume.read(folder / "ct.nii.gz")
    ct_node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    slicer.util.updateVolumeFromArray(ct_node, ct.hu)
    ct_node.SetIJKToRASMatrix(vtk_matrix(ct.affine))
    import SimpleITK as sitk

    image = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}.tiff")))
    fluoroscopy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Fluoroscopy")
    slicer.util.updateVolumeFromArray(fluoroscopy, image[None])

    carm = CArm.read(folder / "carm.json")
    logic = SceneLogic(slicer.mrmlScene, device="cpu")
    try:
        logic.set_geometry(fluoroscopy, carm)
        logic.place_carm(ct_node, fluoroscopy)
        logic.show(ct_node, fluoroscopy)
        logic.load_ct(ct_node)
        detector = SliceView((512, 512), "DiffPoseXray")
        view = ThreeDView((640, 560), "DiffPose3D")
        view.node.SetBoxVisible(False)
        view.node.SetAxisLabelsVisible(False)
        views.aim_slice(detector.node, carm, logic.c0(fluoroscopy))
        composite = views.composite_of(slicer.mrmlScene, "DiffPoseXray")
        views.show_layers(composite, referenced(fluoroscopy, carm_nodes.DETECTOR), None, 0.0)
        detector.node.SetSliceVisible(True)
        detector.image()
        pictures = []
        for name in ("network", "result"):
            logic.set_pose(ct_node, fluoroscopy, Pose.read(folder / f"{case}_{name}.json"))
            views.look_at_scene(view.camera_node(), carm, logic.c0(fluoroscopy))
            view.camera_node().GetCamera().SetViewAngle(17)  # fill the picture
            pictures.append(view.image())
    finally:
        logic.close()
    write_png(np.concatenate(pictures, 1), folder / "scene.png")
    print(f"The 3D scene of the {case} case is in {folder / 'scene.png'}.")
    return 0


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo")
    if not (target / "demo.json").is_file():
        sys.exit(f"The folder {target.name} holds no finished demo; run `python3 Testing/run.py demo` first.")
    sys.exit(main(target))
