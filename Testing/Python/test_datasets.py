"""Readers of the paper's datasets, on files of their layout written here with plastimatch images (the real ones cannot
be fetched by a program)."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from DiffPoseSlicerLib import CArm, CTVolume, Pose
from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.evaluation import datasets
from DiffPoseSlicerLib.evaluation.metrics import default_points, mtre
from DiffPoseSlicerLib.evaluation.plastimatch import executable, plastimatch_drr
from DiffPoseSlicerLib.geometry.coordinates import LPS_FROM_RAS, flip_ras_lps, transform_points
from DiffPoseSlicerLib.registration.register import register

SIZE, SPACING, FOCAL = 128, 2.4, 1020.0
NAMES = ("ASIS-l", "ASIS-r", "FH-l", "FH-r", "GSN-l", "IPS-r")
# The camera of the file: X along stored columns, Y down, Z towards the source. Written out here on its own.
THEIRS_FROM_OURS = np.diag([-1.0, 1.0, -1.0, 1.0])
EXTRINSIC = np.array([[0, 1, 0, 5.0], [-1, 0, 0, 7.0], [0, 0, 1, -400.0], [0, 0, 0, 1]])


@pytest.fixture(scope="module", autouse=True)
def plastimatch() -> None:
    try:
        executable()
    except InputError as error:
        pytest.skip(str(error))


def intensity(integrals: np.ndarray) -> np.ndarray:
    return (np.exp(-integrals) * 60000).astype(np.float32)


def write_deepfluoro(path: Path, ct: CTVolume, poses: list[Pose], flip: np.ndarray | None = None) -> np.ndarray:
    """A file of the layout; every second image is stored upside down. The landmarks written (n, 3) RAS."""
    carm = CArm(FOCAL, (SIZE, SIZE), (SPACING, SPACING), (60.0, 66.0))
    points = default_points(ct.center, seed=5, n=len(NAMES))
    intrinsic = np.array([[-FOCAL / SPACING, 0, SIZE - 1 - 60.0], [0, -FOCAL / SPACING, 66.0], [0, 0, 1]])
    lps = flip_ras_lps(ct.affine)
    with h5py.File(path, "w") as file:
        parameters = file.create_group("proj-params")
        parameters["intrinsic"], parameters["extrinsic"] = intrinsic, EXTRINSIC
        parameters["num-cols"] = parameters["num-rows"] = SIZE
        parameters["pixel-col-spacing"] = parameters["pixel-row-spacing"] = SPACING
        group = file.create_group("17-1882")
        for name, pixels in (("vol", ct.hu), ("vol-seg/image", (ct.hu > 300).astype(np.uint8))):
            group[f"{name}/pixels"] = pixels
            group[f"{name}/spacing"] = ct.spacing[:, None]
            group[f"{name}/origin"] = lps[:3, 3:]
            group[f"{name}/dir-mat"] = lps[:3, :3] / ct.spacing
        group["vol-seg/labels-def/1"] = "bone"
        for name, point in zip(NAMES, points, strict=True):
            group[f"vol-landmarks/{name}"] = transform_points(LPS_FROM_RAS, point)[:, None]
        for number, pose in enumerate(poses):
            theirs = THEIRS_FROM_OURS @ pose.ras_to_camera @ LPS_FROM_RAS  # volume LPS -> camera
            projection = group.create_group(f"projections/{number:03d}")
            # world -> volume, where camera = extrinsic @ world
            extrinsic = EXTRINSIC if flip is None else flip @ EXTRINSIC
            projection["gt-poses/cam-to-pelvis-vol"] = np.linalg.inv(theirs) @ extrinsic
            projection["rot-180-for-up"] = number % 2
            projection["image/pixels"] = intensity(plastimatch_drr(ct, carm, pose))[:, ::-1]
            seen = (intrinsic @ transform_points(theirs, transform_points(LPS_FROM_RAS, points)).T).T
            for name, point in zip(NAMES, seen[:, :2] / seen[:, 2:], strict=True):
                projection[f"gt-landmarks/{name}"] = point[:, None]
    return points


@pytest.fixture(scope="module")
def poses(small_ct: CTVolume) -> list[Pose]:
    carm = CArm(FOCAL, (SIZE, SIZE), (SPACING, SPACING))
    axes = Pose.from_view("AP", small_ct, carm).camera_to_ras[:3, :3]
    return [
        Pose.about(axes, small_ct.center, carm, offset)
        for offset in ([0.1, -0.2, 0.05, 10, -8, 20], [-0.1, 0.3, -0.1, -12, 5, 0])
    ]


@pytest.fixture(scope="module")
def deepfluoro(small_ct: CTVolume, poses: list[Pose], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deepfluoro") / "data.h5"
    write_deepfluoro(path, small_ct, poses)
    return path


def test_deepfluoro_gives_what_was_written(deepfluoro: Path, small_ct: CTVolume, poses: list[Pose]) -> None:
    subject = datasets.read_deepfluoro(deepfluoro, "17-1882")
    assert np.array_equal(subject.ct.hu, small_ct.hu) and np.allclose(subject.ct.affine, small_ct.affine)
    assert subject.structures == {1: "bone"} and subject.labels is not None
    assert np.array_equal(subject.labels, small_ct.hu > 300)
    assert set(subject.landmarks) == set(NAMES) and subject.points.shape == (6, 3)
    assert subject.fluoroscopies == ("000", "001")
    for name, true in zip(subject.fluoroscopies, poses, strict=True):
        fluoroscopy = subject.read(name)
        assert fluoroscopy.reprojection is not None and fluoroscopy.reprojection < 0.1
        camera = transform_points(fluoroscopy.pose.ras_to_camera, subject.points)
        expected = fluoroscopy.xray.carm.project(camera)
        seen = np.array([fluoroscopy.landmarks[key] for key in subject.landmarks])
        assert np.abs(expected - seen).max() < 0.1
        # The source stands where it stood; an image stored upside down has its camera turned by half.
        assert np.allclose(fluoroscopy.pose.camera_to_ras[:3, 3], true.camera_to_ras[:3, 3])
    assert fluoroscopy.xray.carm.rotation == 180 and fluoroscopy.xray.carm.mirrored


@pytest.mark.parametrize("name", ["000", "001"])
def test_a_dataset_s_image_registers_onto_its_pose(deepfluoro: Path, name: str) -> None:
    """Pixels, not only landmarks, lie where the pose says: a start 15 mm off comes back."""
    subject = datasets.read_deepfluoro(deepfluoro, "17-1882")
    fluoroscopy = subject.read(name)
    start = Pose(fluoroscopy.pose.camera_to_ras @ np.array([[1, 0, 0, 12], [0, 1, 0, -9], [0, 0, 1, 0], [0, 0, 0, 1]]))
    found = register(subject.ct, fluoroscopy.xray, start)
    assert mtre(start, fluoroscopy.pose, subject.points) > 14
    assert mtre(found.pose, fluoroscopy.pose, subject.points) < 2


def test_z_flipped_fails(
    small_ct: CTVolume, poses: list[Pose], deepfluoro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_deepfluoro(tmp_path / "flipped.h5", small_ct, poses[:1], np.diag([1.0, -1, -1, 1]))
    subject = datasets.read_deepfluoro(tmp_path / "flipped.h5", "17-1882")
    with pytest.raises(InputError, match=r"landmarks of 17-1882, 000 lie up to .* pixels"):
        subject.read("000")
    write_deepfluoro(tmp_path / "mirrored.h5", small_ct, poses[:1], np.diag([1.0, 1, -1, 1]))
    with pytest.raises(InputError):
        datasets.read_deepfluoro(tmp_path / "mirrored.h5", "17-1882").read("000")
    # And a reader that takes Z the other way round fails on a file that is right.
    for wrong in (np.diag([1.0, 1, -1, 1]), np.diag([1.0, -1, -1, 1]), np.eye(4)):
        monkeypatch.setattr(datasets, "DEEPFLUORO_CAMERA", wrong)
        with pytest.raises(InputError):
            datasets.read_deepfluoro(deepfluoro, "17-1882").read("000")


def test_ljubljana(small_ct: CTVolume, poses: list[Pose], tmp_path: Path) -> None:
    ct = CTVolume.from_array(
        small_ct.hu, flip_ras_lps(np.diag([*small_ct.spacing, 1.0])) @ _shift(0.5)
    )  # the corner of the first voxel is the origin
    carm = CArm(FOCAL, (SIZE, SIZE), (SPACING, SPACING), (60.0, 66.0))
    axes = Pose.from_view("AP", ct, carm).camera_to_ras[:3, :3]
    pose = Pose.about(axes, ct.center, carm, [0.1, -0.2, 0.05, 10, -8, 20])
    points = default_points(ct.center, n=8)
    to_camera = pose.ras_to_camera @ LPS_FROM_RAS
    with h5py.File(tmp_path / "l.h5", "w") as file:
        group = file.create_group("subject01")
        group["volume/pixels"], group["volume/spacing"] = ct.hu.transpose(2, 1, 0), ct.spacing
        group["points"] = transform_points(LPS_FROM_RAS, points)
        view = group.create_group("proj-ap")
        view["pixels"] = intensity(plastimatch_drr(ct, carm, pose))
        view["intrinsic"], view["extrinsic"] = carm.intrinsics, to_camera
        view["col-spacing"] = view["row-spacing"] = SPACING
        view["points"] = carm.project(transform_points(to_camera, transform_points(LPS_FROM_RAS, points)))
    subject = datasets.read_ljubljana(tmp_path / "l.h5", "subject01")
    assert np.array_equal(subject.ct.hu, ct.hu) and np.allclose(subject.ct.affine, ct.affine)
    assert subject.fluoroscopies == ("ap",) and np.allclose(subject.points, points)
    fluoroscopy = subject.read("ap")
    assert np.allclose(fluoroscopy.pose.camera_to_ras, pose.camera_to_ras)
    assert fluoroscopy.reprojection is not None and fluoroscopy.reprojection < 0.1
    with h5py.File(tmp_path / "l.h5", "r+") as file:
        view = file["subject01/proj-ap"]
        flipped = np.diag([1.0, -1, -1, 1]) @ view["extrinsic"][()]
        del view["extrinsic"]
        view["extrinsic"] = flipped
    with pytest.raises(InputError, match="landmarks"):
        datasets.read_ljubljana(tmp_path / "l.h5", "subject01").read("ap")


def _shift(voxels: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = voxels
    return matrix


def test_what_is_missing_is_said(deepfluoro: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no entry /18-1109"):
        datasets.read_deepfluoro(deepfluoro, "18-1109")
    with pytest.raises(InputError, match="not there"):
        datasets.read_deepfluoro(tmp_path / "none.h5", "17-1882")
    with pytest.raises(InputError, match="no entry .*007"):
        datasets.read_deepfluoro(deepfluoro, "17-1882").read("007")


def test_a_study_takes_a_dataset(deepfluoro: Path, tmp_path: Path) -> None:
    from DiffPoseSlicerLib.studies.plan import Case, study_from_toml
    from DiffPoseSlicerLib.studies.run import run_case, run_study
    from DiffPoseSlicerLib.studies.study_page import study_page

    text = "cases = 2\n[dataset]\nkind = 'deepfluoro'\nfile = 'data.h5'\nsubjects = ['17-1882']\n"
    text += "[starts]\nnear = [5, 10]\n[methods.ours]\n"
    study = study_from_toml(text, deepfluoro.parent)
    cases = list(study.all_cases())
    assert [case.name for case in cases] == [f"17-1882-file-near-clean-000{n}" for n in (0, 1)]
    found = run_case(study, cases[1], ["ours"], {})
    assert found["methods"]["ours"]["mtre"] < 2 < found["start"]
    assert 0 < found["reprojection"] < 0.1
    rows = run_study(study, tmp_path / "out", workers=1, say=lambda _: None)
    assert all(0 < row["reprojection"] < 0.1 for row in rows)
    assert "at most 0.0" in study_page(study, tmp_path / "out", rows, pictures=False)
    beyond = run_case(study, Case("17-1882", "file", "near", "clean", 7), ["ours"], {})
    assert "has 2 X-rays only" in beyond["methods"]["ours"]["error"]
