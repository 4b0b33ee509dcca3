"""Structures that move on their own: cut out by labels, registered each by itself and jointly."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from DiffPoseSlicerLib import CArm, CTVolume, InputError, LabelMap, Pose, XrayImage, register_structures
from DiffPoseSlicerLib.cli.main import main
from DiffPoseSlicerLib.evaluation.metrics import mrpd, mtre
from DiffPoseSlicerLib.geometry.coordinates import transform_points
from DiffPoseSlicerLib.geometry.se3 import inverse
from DiffPoseSlicerLib.imaging.itk import set_affine
from DiffPoseSlicerLib.registration.starts import turned
from DiffPoseSlicerLib.rendering.renderer import Projector

CARM = CArm(1020.0, (112, 120), (1.6, 1.5), (60.0, 54.5), intensity="transmission")
AFFINE = np.array([[-1.5, 0, 0, 60], [0, -1.5, 0, 50], [0, 0, 1.5, -70], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def two_bones() -> tuple[CTVolume, np.ndarray]:
    """A forearm-like phantom: two uneven shafts with heads in soft tissue, and their labels."""
    k, j, i = np.mgrid[0:92, 0:66, 0:80].astype(float)
    labels = np.zeros(k.shape, np.uint8)
    hu = np.where(((i - 40) / 36) ** 2 + ((j - 33) / 28) ** 2 < 1, 20.0, -1000.0)
    for label, (u, v, tilt, sizes) in enumerate([(28, 30, 0.06, (7, 9)), (52, 38, -0.05, (6, 8))], start=1):
        centre_u, centre_v = u + tilt * (k - 46), v - tilt * (k - 46) / 2
        swell = 1 + 0.6 * np.exp(-(((k - 70 + 12 * label) / 9) ** 2)) + 0.15 * np.sin(k / (5 + label))
        radius = np.hypot((i - centre_u) / sizes[0], (j - centre_v) / sizes[1]) / swell
        bone = (radius < 1) & (k > 8) & (k < 84)
        labels[bone] = label
        hu[bone] = np.where(radius[bone] > 0.65, 1100, 250)
    rng = np.random.default_rng(0)
    for label in (1, 2):  # marks that make each bone unlike itself turned
        inside = np.argwhere(labels == label)
        for spot in inside[rng.choice(len(inside), 14, replace=False)]:
            near = ((np.stack([k, j, i]) - spot[:, None, None, None]) ** 2).sum(0) < 9
            hu[near & (labels == label)] = 1500
    return CTVolume.from_array(np.rint(hu).astype(np.int16), AFFINE, "phantom"), labels


@pytest.fixture(scope="module")
def scene(two_bones):
    """Poses of both bones in two views, moved otherwise than in the CT, and the images."""
    ct, labels = two_bones
    parts = {str(label): ct.structure(labels == label) for label in (1, 2)}
    relative = None
    nominal = [Pose.from_view(view, ct, CARM) for view in ("AP", "LEFT_LATERAL")]
    relative = nominal[1].ras_to_camera @ nominal[0].camera_to_ras
    moves = {"1": [0.06, -0.05, 0.03, 4, -3, 5], "2": [-0.05, 0.06, -0.04, 1, 2, 9]}
    truth = {
        name: turned(nominal[0].ras_to_camera, parts[name].center, np.array([move]))[0] for name, move in moves.items()
    }
    xrays = []
    for other in (np.eye(4), relative):
        image = 1.0 + sum(
            Projector(parts[name].level(0), "cpu").project(CARM, inverse(other @ truth[name])) for name in parts
        )
        image = np.exp(-image.reshape(CARM.image_size))
        noisy = np.random.default_rng(1).poisson(image * 4e4) / 4e4
        xrays.append(XrayImage.from_array(np.clip(noisy * 60000, 0, 65000).astype(np.uint16), CARM))
    poses = {name: [Pose(inverse(t)), Pose(inverse(relative @ t))] for name, t in truth.items()}
    return parts, xrays, nominal, poses


def _points(part: CTVolume) -> np.ndarray:
    voxels = np.argwhere(part.hu > 0)[::97, ::-1]
    return transform_points(part.affine, voxels)


def test_a_structure_is_cut_out_where_it_lies(two_bones):
    ct, labels = two_bones
    part = ct.structure(labels == 2, margin=3.0, name="ulna")
    where = np.argwhere(part.hu > -1000)
    assert len(where) == (labels == 2).sum()
    k, j, i = where[0]
    index = np.rint(transform_points(np.linalg.inv(ct.affine) @ part.affine, [i, j, k])).astype(int)
    assert ct.hu[tuple(index[::-1])] == part.hu[k, j, i]
    assert part.name == "ulna"
    assert min(part.hu.shape) < min(ct.hu.shape)
    with pytest.raises(InputError, match="give one of its shape"):
        ct.structure(labels[1:])
    with pytest.raises(InputError, match="0 voxels"):
        ct.structure(labels == 7)


def test_labels_of_another_grid_and_names_of_segments(two_bones, tmp_path):
    ct, labels = two_bones
    coarse = labels[10:90:2, ::2, ::2]
    affine = ct.affine @ np.array([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 10], [0, 0, 0, 1.0]])
    found = LabelMap.from_array(coarse, affine).mask(1, ct)
    overlap = (found & (labels == 1)).sum() / (found | (labels == 1)).sum()
    assert overlap > 0.8
    # Slicer's segmentations: names, layers that overlap.
    both = np.stack([labels == 1, labels == 2], -1).astype(np.uint8)
    image = sitk.GetImageFromArray(both, isVector=True)
    set_affine(image, ct.affine)
    for number, name in enumerate(("radius", "ulna")):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", "1")
        image.SetMetaData(f"Segment{number}_Layer", str(number))
    sitk.WriteImage(image, str(tmp_path / "bones.seg.nrrd"))
    read = LabelMap.read(tmp_path / "bones.seg.nrrd")
    assert np.array_equal(read.mask("ulna", ct), labels == 2)
    assert np.array_equal(read.mask("radius", ct), labels == 1)
    with pytest.raises(InputError, match="no structure 'femur'.*radius, ulna"):
        read.mask("femur", ct)
    with pytest.raises(InputError, match="fractions"):
        LabelMap.from_array(labels * 0.5, ct.affine)
    with pytest.raises(InputError, match="does not exist"):
        LabelMap.read(tmp_path / "none.nrrd")
    away = ct.affine.copy()
    away[:3, 3] += 1000
    with pytest.raises(InputError, match="outside the CT"):
        LabelMap.from_array(labels, away).mask(1, ct)


def test_two_bones_are_found_jointly_in_two_views(scene):
    parts, xrays, nominal, truth = scene
    found = register_structures(parts, xrays, nominal, device="cpu")
    for name, result in found.items():
        for pose, expected in zip(result.poses, truth[name], strict=True):
            assert mtre(pose, expected, _points(parts[name])) < 1.0
        assert min(result.similarities) > 0.9
        assert np.linalg.eigvalsh(result.covariance).min() > 0
        assert result.hypotheses[0].pose.camera_to_ras == pytest.approx(result.pose.camera_to_ras)
        assert result.carms is not None


def test_two_bones_are_found_jointly_in_one_view(scene):
    parts, xrays, nominal, truth = scene
    for view, xray in enumerate(xrays):
        found = register_structures(parts, xray, nominal[view], device="cpu")
        for name, result in found.items():
            assert mrpd(result.pose, truth[name][view], _points(parts[name]), CARM) < 0.3
            # Over whole images, though fine detail alone is solved by.
            assert result.similarities[0] > 0.9


def test_each_by_itself_is_another_question(scene):
    parts, xrays, _, truth = scene
    found = register_structures(parts, xrays[0], truth["1"][0], jointly=False, device="cpu")
    assert set(found) == {"1", "2"}
    alone = register_structures({"1": parts["1"]}, xrays[0], truth["1"][0], device="cpu")["1"]
    assert alone.pose.camera_to_ras == pytest.approx(found["1"].pose.camera_to_ras)


def test_what_structures_need_is_said(scene):
    parts, xrays, nominal, _ = scene
    with pytest.raises(InputError, match="whole CT"):
        register_structures(parts, xrays[0], "search")
    with pytest.raises(InputError, match="no start for the structure 2"):
        register_structures(parts, xrays[0], {"1": nominal[0]})
    with pytest.raises(InputError, match="nothing to register"):
        register_structures({}, xrays[0], nominal[0])


def test_the_command_line_takes_labels(two_bones, scene, tmp_path, capsys):
    ct, labels = two_bones
    _, xrays, _, truth = scene
    ct.write(tmp_path / "ct.nii.gz")
    image = sitk.GetImageFromArray(labels)
    set_affine(image, ct.affine)
    sitk.WriteImage(image, str(tmp_path / "labels.nii.gz"))
    CARM.write(tmp_path / "carm.json")
    np.save(tmp_path / "xray.npy", xrays[0].stored.astype(np.float32))
    truth["1"][0].write(tmp_path / "start.json")
    words = [str(tmp_path / "ct.nii.gz"), str(tmp_path / "xray.npy"), "--carm", str(tmp_path / "carm.json")]
    words += ["--start", f"pose:{tmp_path / 'start.json'}", "-o", str(tmp_path / "result.json"), "--device", "cpu"]
    labelled = ["--labels", str(tmp_path / "labels.nii.gz")]
    assert main(["register", *words, *labelled, "--structure", "1", "2", "--overlay", str(tmp_path / "o.png")]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert [part["structure"] for part in result["structures"]] == ["1", "2"]
    assert result["views"] == result["structures"][0]["views"]
    assert (tmp_path / "o.png").stat().st_size > 1000
    assert capsys.readouterr().out.count("similarity") == 2
    assert main(["register", *words, "--structure", "1"]) == 2
    assert "go together" in capsys.readouterr().err
    assert main(["register", *words, *labelled, "--structure", "9"]) == 2
    assert "there are 1, 2" in capsys.readouterr().err
