"""The second look: turns about the source, the images they give, and that a model undoes them."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pretraining needs torch, which is not installed here")

from dataclasses import replace  # noqa: E402

from DiffPoseSlicerLib.imaging.xray import XrayImage  # noqa: E402
from DiffPoseSlicerLib.pretraining import recentring  # noqa: E402
from DiffPoseSlicerLib.pretraining.data import Source  # noqa: E402
from DiffPoseSlicerLib.pretraining.model import PoseModel  # noqa: E402
from DiffPoseSlicerLib.pretraining.network import NetworkConfig, PoseNetwork  # noqa: E402
from DiffPoseSlicerLib.pretraining.settings import preset  # noqa: E402
from DiffPoseSlicerLib.pretraining.view import network_carm  # noqa: E402
from DiffPoseSlicerLib.rendering.renderer import render  # noqa: E402
from test_pretraining import CARM, phantom, task  # noqa: E402

OFFSETS = np.random.default_rng(5).uniform(-1, 1, (8, 6)) * [0.5, 0.5, 0.7, 30, 30, 60]


def test_turns_centre_the_isocentre_take_the_roll_away_and_can_be_undone():
    turns = recentring.upright(OFFSETS, CARM)
    assert np.allclose(turns @ np.swapaxes(turns, 1, 2), np.eye(3)) and np.allclose(np.linalg.det(turns), 1)
    seen = recentring.turned(OFFSETS, turns, CARM)
    assert np.allclose(seen[:, 2:5], 0, atol=1e-9)
    distance = np.linalg.norm(OFFSETS[:, 3:] + [0, 0, CARM.source_to_isocenter], axis=1)
    assert np.allclose(seen[:, 5] + CARM.source_to_isocenter, distance)
    assert np.allclose(recentring.turned(seen, np.swapaxes(turns, 1, 2), CARM), OFFSETS, atol=1e-9)
    assert np.allclose(recentring.upright(np.zeros((1, 6)), CARM), np.eye(3))


def test_a_turned_image_is_what_the_turned_camera_sees():
    ct = phantom()
    one = task(ct)
    xray = XrayImage(render(ct, CARM, one.pose(OFFSETS[0]), device="cpu"), CARM, None)
    carm = network_carm(CARM, 32)
    turns = recentring.upright(OFFSETS[:1], CARM)
    (image,) = recentring.turned_images(xray, carm, turns)
    (inside,) = recentring.window(turns, carm)
    (offset,) = recentring.turned(OFFSETS[:1], turns, CARM)
    fine = render(ct, carm.resized((96, 128)), one.pose(offset), device="cpu")
    rows, columns = carm.image_size
    truth = fine.reshape(rows, 96 // rows, columns, 128 // columns).mean((1, 3))
    assert 0.5 < inside.mean() < 1
    assert np.corrcoef(image[inside], truth[inside])[0, 1] > 0.995
    untouched = XrayImage(xray.pixels, CARM)
    assert np.corrcoef(recentring.turned_images(untouched, carm, np.eye(3)[None])[0][inside], truth[inside])[0, 1] < 0.9
    outside = ~np.any([np.roll(inside, by, axis) for by in (-1, 0, 1) for axis in (0, 1)], 0)
    assert outside.any() and np.ptp(image[outside]) == 0


def test_what_a_mask_excludes_reaches_no_turned_image():
    pixels = np.random.default_rng(0).normal(size=CARM.image_size).astype(np.float32)
    mask = np.ones(CARM.image_size, bool)
    mask[:, :30] = False
    carm, turns = network_carm(CARM, 32), recentring.upright(OFFSETS, CARM)
    clean = recentring.turned_images(XrayImage(np.where(mask, pixels, 0), CARM, mask), carm, turns)
    spoilt = recentring.turned_images(XrayImage(np.where(mask, pixels, 1e3), CARM, mask), carm, turns)
    assert np.allclose(clean, spoilt, atol=1e-3)


def test_a_share_of_the_training_images_is_turned_and_none_of_validation():
    ct, settings = phantom(), preset("tiny", batch=64)
    once = Source(ct, task(ct), settings, 4, "cpu")
    twice = Source(ct, task(ct), replace(settings, second_looks=0.5), 4, "cpu")
    assert torch.equal(once.batch(-2)[0], twice.batch(-2)[0])
    plain, offsets = (batch[1].numpy() for batch in (once.batch(3), twice.batch(3)))
    same = (plain == offsets).all(1)
    assert 0.3 < same.mean() < 0.7
    # What is turned stands nearer to the middle, up to the guesses' errors.
    assert abs(offsets[~same, 2:5]).mean(0) == pytest.approx(0, abs=15)
    assert (abs(offsets[~same, 3:5]).mean(0) < 0.8 * abs(plain[~same, 3:5]).mean(0)).all()
    for rank in range(2):
        part = Source(ct, task(ct), replace(settings, second_looks=0.5), 4, "cpu", rank, 2)
        images, part_offsets = part.batch(3)
        assert np.array_equal(part_offsets.numpy(), offsets[rank::2])
        assert torch.allclose(images, twice.batch(3)[0][rank::2], atol=1e-4)


def test_a_model_gives_the_mean_of_its_second_looks_in_the_x_rays_own_frame(monkeypatch):
    """A network that is a little off at first and right when it looks again must give the true offset."""
    ct, true = phantom(), OFFSETS[1]
    one = task(ct)
    carm = network_carm(CARM, 32)
    network = PoseNetwork(NetworkConfig(*carm.image_size, 16, (1, 1), 32, 4), one.ranges)
    model = PoseModel(network, one, {"looksTwice": True})
    xray = XrayImage(np.random.default_rng(0).normal(size=CARM.image_size).astype(np.float32), CARM)
    first = true + [0.05, -0.03, 0.02, 6, -4, 9]
    asked = []

    def run(images):
        asked.append(len(images))
        if len(images) == 1:
            return first[None], np.ones((1, 6))
        turns = recentring.looks(first, CARM)
        return recentring.turned(np.repeat(true[None], len(turns), 0), turns, CARM), np.full((len(turns), 6), 0.5)

    monkeypatch.setattr(model, "_run", run)
    said = model.read(xray)
    assert np.allclose(said.offset, true, atol=1e-9) and np.allclose(said.spread, 0.5)
    assert asked == [1, recentring.LOOKS]
    model.data = {}
    assert np.allclose(model.read(xray).offset, first)
