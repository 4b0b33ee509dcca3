"""Runs of frames: read one by one, followed, lost and found again."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dicom_writing import save, xray_dataset
from DiffPoseSlicerLib import CArm, CTVolume, InputError, Pose, XrayImage, read_frames, track
from DiffPoseSlicerLib.cli.main import main
from DiffPoseSlicerLib.errors import Cancelled
from DiffPoseSlicerLib.evaluation.metrics import default_points, mtre
from DiffPoseSlicerLib.geometry.pose import view_rotation
from DiffPoseSlicerLib.geometry.se3 import rigidity_error
from DiffPoseSlicerLib.imaging.resampling import resample, weights
from DiffPoseSlicerLib.registration.register import Registrar
from DiffPoseSlicerLib.registration.tracking import FOUND, LOST, TRACKED
from DiffPoseSlicerLib.rendering.renderer import Projector

CARM = CArm(1020.0, (96, 104), (2.9, 2.8), (50.0, 49.5), intensity="transmission")
COUNT, BLOCKED = 9, (5, 6)


@pytest.fixture(scope="module")
def registrar(small_ct: CTVolume) -> Registrar:
    return Registrar(small_ct, "cpu")


@pytest.fixture(scope="module")
def poses(small_ct: CTVolume) -> list[Pose]:
    """5 mm and about 3 degrees from each to the next."""
    turn = np.deg2rad([1.5, -1.8, 1.8])
    steps = [np.array([*(n * turn), *(n * np.array([3.0, -2.0, 3.5]))]) for n in (0, 1, 2, 3, 2, 3, 4, 3, 2)]
    return [Pose.about(view_rotation("AP"), small_ct.center, CARM, step) for step in steps]


@pytest.fixture(scope="module")
def stored(small_ct: CTVolume, poses: list[Pose]) -> np.ndarray:
    """What the detector stores: a wire comes in from the second frame on; two frames are blocked."""
    projector = Projector(small_ct.level(0), "cpu")
    frames = []
    for number, pose in enumerate(poses):
        image = projector.project(CARM, pose.camera_to_ras).reshape(CARM.image_size)
        if number:
            image[: 8 * number, 40:42] += 2.5
        if number in BLOCKED:
            image[:] = 5
        noisy = np.random.default_rng(number).poisson(np.exp(-image) * 2e4) / 2e4
        frames.append(np.clip(noisy * 30000, 0, 60000).astype(np.uint16))
    return np.stack(frames)


def test_a_run_is_followed_lost_and_found(small_ct, registrar, poses, stored, tmp_path):
    np.save(tmp_path / "run.npy", stored)
    told = []
    frames = track(
        small_ct, read_frames(tmp_path / "run.npy", CARM), poses[0], registrar=registrar, on_frame=told.append
    )
    assert [frame.number for frame in told] == list(range(COUNT)) and told == frames
    points = default_points(small_ct.center)
    assert frames[0].state == FOUND
    for frame, truth in zip(frames, poses, strict=True):
        if frame.number in BLOCKED:
            assert frame.state == LOST and not frame.trust.trusted
            assert "lost" in frame.trust.reasons[0]
            # The last pose that held is shown meanwhile.
            assert frame.pose.camera_to_ras == pytest.approx(frames[BLOCKED[0] - 1].pose.camera_to_ras)
        else:
            assert frame.state in (TRACKED, FOUND)
            assert mtre(frame.pose, truth, points) < 1.0
        assert frame.seconds > 0
    assert frames[BLOCKED[-1] + 1].state == FOUND
    assert set(frames[0].to_json()) == {"frame", "cameraToRAS", "similarity", "state", "trust", "seconds"}


def test_rounding_does_not_grow_from_frame_to_frame(small_ct, registrar, poses, stored):
    """Each frame's start is a product of poses; a run of still frames must stay rigid and where it is."""
    frame = XrayImage.from_array(stored[0], CARM)
    frames = track(small_ct, [frame] * 40, poses[0], registrar=registrar)
    assert rigidity_error(frames[-1].pose.camera_to_ras) < 1e-9
    assert mtre(frames[-1].pose, poses[0], default_points(small_ct.center)) < 1.0


def test_following_can_be_stopped(small_ct, registrar, poses, stored):
    frames = [XrayImage.from_array(image, CARM) for image in stored[:3]]
    done = []
    with pytest.raises(Cancelled):
        track(small_ct, frames, poses[0], registrar=registrar, on_frame=done.append, cancel=lambda: len(done) == 2)
    assert len(done) == 2
    with pytest.raises(InputError, match="no frame"):
        track(small_ct, [], poses[0], registrar=registrar)


def test_frames_are_what_reading_one_by_one_gives(stored, tmp_path):
    np.save(tmp_path / "run.npy", stored)
    frames = list(read_frames(tmp_path / "run.npy", CARM, 1, 4))
    assert len(frames) == 4
    for number, frame in enumerate(frames, start=1):
        alone = XrayImage.read(tmp_path / "run.npy", CARM, number)
        # One exposure for the run: equal up to the brightness of the air.
        assert np.ptp(frame.pixels - alone.pixels) < 1e-4
        assert frame.carm.image_size == CARM.image_size
    with pytest.raises(InputError, match="choose from 0 to 8"):
        list(read_frames(tmp_path / "run.npy", CARM, 3, 9))
    with pytest.raises(InputError, match="does not exist"):
        list(read_frames(tmp_path / "none.npy", CARM))
    with pytest.raises(InputError, match="follows one of"):
        frames[0].next_frame(stored[0, :-1])


def test_frames_of_dicom(stored, tmp_path):
    save(xray_dataset(stored), tmp_path / "run.dcm")
    frames = list(read_frames(tmp_path / "run.dcm", CARM))
    assert len(frames) == COUNT
    for number in (0, 3):
        alone = XrayImage.read(tmp_path / "run.dcm", CARM, number)
        assert np.ptp(frames[number].pixels - alone.pixels) < 1e-4


def test_the_next_frame_is_turned_as_the_first(stored):
    turned = CArm.from_json(CARM.to_json() | {"mirrored": True, "rotation": 90})
    as_stored = [np.ascontiguousarray(np.rot90(image[:, ::-1])) for image in stored[:2]]
    first = XrayImage.from_array(as_stored[0], turned)
    plain = XrayImage.from_array(stored[0], CARM)
    assert np.array_equal(first.pixels, plain.pixels)
    assert np.array_equal(first.next_frame(as_stored[1]).pixels, plain.next_frame(stored[1]).pixels)


def test_the_command_line_follows_a_run(small_ct, poses, stored, tmp_path, capsys):
    small_ct.write(tmp_path / "ct.nii.gz")
    np.save(tmp_path / "run.npy", stored)
    CARM.write(tmp_path / "carm.json")
    poses[1].write(tmp_path / "start.json")
    words = ["track", str(tmp_path / "ct.nii.gz"), str(tmp_path / "run.npy"), "--carm", str(tmp_path / "carm.json")]
    words += ["--start", f"pose:{tmp_path / 'start.json'}", "-o", str(tmp_path / "track.json"), "--device", "cpu"]
    assert main([*words, "--frames", "1", "5"]) == 0
    data = json.loads((tmp_path / "track.json").read_text())
    assert [frame["frame"] for frame in data["frames"]] == [1, 2, 3, 4, 5]
    assert data["frames"][-1]["state"] == LOST
    printed = capsys.readouterr()
    assert "5 frames" in printed.out and "lost in the frames 5" in printed.err


def test_whole_blocks_are_averaged_as_the_weights_say():
    image = np.random.default_rng(0).normal(size=(96, 104)).astype(np.float32)
    mask = image > -1
    small, kept = resample(image, 48, 26, mask)
    down, across = weights(96, 48), weights(104, 26).T
    share = down @ mask.astype(np.float32) @ across
    expected = down @ np.where(mask, image, 0) @ across / np.maximum(share, 1e-6)
    np.testing.assert_allclose(small[share > 0], expected[share > 0], atol=1e-5)
    assert np.array_equal(kept, share > 0.5)
