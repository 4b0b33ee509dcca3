"""The real wrist of `bench views`: radius and ulna in two calibrated cameras, jointly and in each camera by itself.

There is no true pose. What is reported: how well each bone agrees in each camera, how far each camera's own result is
from the joint one in its own view (mRPD), and in the other camera's view (cross-view error), where depth shows. Points
are voxels of each bone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from DiffPoseSlicerLib.evaluation.images import write_pixels
from DiffPoseSlicerLib.evaluation.metrics import mrpd, mtre
from DiffPoseSlicerLib.evaluation.overlay import overlay_image
from DiffPoseSlicerLib.geometry.carm import CArm
from DiffPoseSlicerLib.geometry.coordinates import transform_points
from DiffPoseSlicerLib.geometry.pose import Pose, read_poses
from DiffPoseSlicerLib.geometry.se3 import Array, inverse, rigid, so3_exp
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.imaging.xray import XrayImage
from DiffPoseSlicerLib.registration.joint import GeometryPriors
from DiffPoseSlicerLib.registration.register import Registrar, register
from DiffPoseSlicerLib.registration.relations import read_rig
from DiffPoseSlicerLib.registration.starts import turned
from DiffPoseSlicerLib.registration.structures import register_structures
from DiffPoseSlicerLib.rendering.renderer import render

EXACT = GeometryPriors(0, 0, 0, 0)
# The ulna has no start. It was looked for all around the radius, turned in all ways about the forearm's axis, beside
# the rendered radius; of what was found one pose agreed in both cameras and lay on the bone in both overlays. There:
# middle from middle (mm), and turn (degrees), in the radius' axes. Both crops come from one scan.
BESIDE_MM, TURN_DEGREES = (0.0, 22.0, 4.0), (5.0, 15.0, -80.0)
# Half-ranges that starts farther off are moved by on each axis.
FARTHER_DEGREES, FARTHER_MM = 4.0, 4.0


def wrist(folder: Path, picture: Path, starts: int = 0) -> dict[str, Any]:
    """Register, print and draw the wrist; see the module's text."""
    bones = {name: CTVolume.read(folder / f"{name}.nii.gz") for name in ("radius", "ulna")}
    cameras = (1, 2)
    xrays = [XrayImage.read(folder / f"xray_cam{n}.tiff", CArm.read(folder / f"carm_cam{n}.json")) for n in cameras]
    rig = read_rig(folder / "rig.json")
    relative = [np.eye(4), *rig]
    begun = read_poses(folder / "start_radius.json")
    registrars = {name: Registrar(ct, isolated=True) for name, ct in bones.items()}
    points = {name: _voxels(ct) for name, ct in bones.items()}
    began = time.perf_counter()
    alone = register(bones["radius"], xrays, begun, relative=rig, geometry=EXACT, registrar=registrars["radius"])
    said = " ".join(f"{value:.2f}" for value in alone.similarities)
    print(f"wrist       radius alone, both cameras: NCC {said}, {time.perf_counter() - began:.1f} s")
    ulna = _beside(registrars, alone.pose.ras_to_camera)
    first = {"radius": begun, "ulna": [Pose(inverse(other @ ulna)) for other in relative]}
    rows: dict[str, Any] = {}
    for name, geometry in (("joint", EXACT), ("calibrated", GeometryPriors())):
        began = time.perf_counter()
        rows[name] = register_structures(registrars, xrays, first, relative=rig, geometry=geometry)
        carms = rows[name]["radius"].carms or [xray.carm for xray in xrays]
        said = "; ".join(f"{bone} NCC {' '.join(f'{s:.2f}' for s in r.similarities)}" for bone, r in rows[name].items())
        distances = " ".join(f"{carm.source_to_detector:.0f}" for carm in carms)
        print(f"wrist       {name:10} {said}; distances {distances} mm, {time.perf_counter() - began:.1f} s")
    joint = rows["joint"]
    found: dict[str, Any] = {
        name: {bone: result.similarities for bone, result in row.items()} for name, row in rows.items()
    }
    for view, xray in enumerate(xrays):
        one = register(bones["radius"], xray, begun[view], registrar=registrars["radius"])
        off = mrpd(one.pose, joint["radius"].poses[view], points["radius"], xray.carm)
        found[f"camera {cameras[view]}, radius without the ulna"] = {"similarity": one.similarities[0], "ownView": off}
        print(
            f"wrist       camera {cameras[view]}, radius without the ulna: NCC {one.similarities[0]:.2f}, from the "
            f"joint fit: mRPD {off:.2f} mm in its own view"
        )
        single = register_structures(registrars, xray, {bone: poses[view] for bone, poses in first.items()})
        for bone, result in single.items():
            other = Pose(inverse(relative[1 - view] @ inverse(relative[view]) @ result.pose.ras_to_camera))
            row = {
                "similarity": result.similarities[0],
                "ownView": mrpd(result.pose, joint[bone].poses[view], points[bone], xray.carm),
                "crossView": mrpd(other, joint[bone].poses[1 - view], points[bone], xrays[1 - view].carm),
                "mtre": mtre(result.pose, joint[bone].poses[view], points[bone]),
            }
            found[f"camera {cameras[view]}, {bone}"] = row
            print(
                f"wrist       camera {cameras[view]} alone, {bone:6} NCC {row['similarity']:.2f}, from the joint fit: "
                f"mRPD {row['ownView']:.2f} mm in its own view, {row['crossView']:.2f} mm in the other's, "
                f"mTRE {row['mtre']:.2f} mm"
            )
        if starts:
            found[f"camera {cameras[view]}, starts"] = farther = _farther(
                registrars,
                xray,
                {bone: poses[view] for bone, poses in first.items()},
                starts,
                lambda bone, pose, view=view, xray=xray: mrpd(pose, joint[bone].poses[view], points[bone], xray.carm),
            )
            for bone, errors in farther.items():
                near = [sum(error < limit for error in errors) for limit in (0.5, 1.0)]
                print(
                    f"wrist       camera {cameras[view]} alone, {bone:6} from {starts} starts farther off: {near[0]} "
                    f"within 0.5 mm mRPD, {near[1]} within 1 mm, median {np.median(errors):.2f} mm"
                )
    parts = [
        overlay_image(
            xray.pixels,
            sum(render(bones[bone], xray.carm, result.poses[view]) for bone, result in joint.items()),
            xray.mask,
        )
        for view, xray in enumerate(xrays)
    ]
    write_pixels(picture, np.concatenate(parts, axis=1))
    return found


def _farther(
    registrars: dict[str, Registrar],
    xray: XrayImage,
    first: dict[str, Pose],
    count: int,
    error: Callable[[str, Pose], float],
) -> dict[str, list[float]]:
    """The error of each bone in one view, from starts farther off."""
    found: dict[str, list[float]] = {bone: [] for bone in first}
    half = np.repeat([np.deg2rad(FARTHER_DEGREES), FARTHER_MM], 3)
    for number in range(count):
        rng = np.random.default_rng(number)
        moved = {
            bone: Pose(
                inverse(turned(pose.ras_to_camera, registrars[bone].center, rng.uniform(-1, 1, (1, 6)) * half)[0])
            )
            for bone, pose in first.items()
        }
        for bone, result in register_structures(registrars, xray, moved).items():
            found[bone].append(error(bone, result.pose))
    return found


def _voxels(bone: CTVolume, count: int = 50) -> Array:
    """Some voxels of a bone, RAS mm: (count, 3)."""
    index = np.argwhere(bone.hu > 200)[:, ::-1]
    return transform_points(bone.affine, index[np.random.default_rng(0).choice(len(index), count, replace=False)])


def _beside(registrars: dict[str, Registrar], radius: Array) -> Array:
    """About where the ulna is (ras_to_camera of the first view), from where the radius is."""
    bone, ulna = registrars["radius"], registrars["ulna"]
    middle = transform_points(radius, bone.center + np.array(BESIDE_MM))
    turned = radius[:3, :3] @ so3_exp(np.deg2rad(TURN_DEGREES))
    return rigid(turned, middle - turned @ ulna.center)
