"""The certificate: its figures, what it refuses, and what it writes."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="pretraining needs torch, which is not installed here")

from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.pretraining.certificate import (
    Outcome,
    capture_map,
    certify,
    interval,
    read_certificate,
    summary,
)
from DiffPoseSlicerLib.pretraining.certificate_page import page
from DiffPoseSlicerLib.pretraining.job import Job, read_status, run_job
from DiffPoseSlicerLib.pretraining.model import PoseModel
from DiffPoseSlicerLib.pretraining.settings import preset
from test_pretraining import phantom, task


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A job that was run to its end and its certificate with two cases."""
    ct = phantom()
    folder = tmp_path_factory.mktemp("certified") / "job"
    settings = preset("tiny", seconds=60.0, most_steps=3, cases=2, certify_seconds=100.0)
    run_job(Job.create(folder, ct, task(ct), settings, device="cpu").folder)
    return ct, folder


def outcomes(model: PoseModel, count: int, good: int) -> list[Outcome]:
    rng = np.random.default_rng(0)
    offsets = rng.uniform(-1, 1, (count, 6)) * model.task.ranges
    return [
        Outcome(tuple(offset), 5.0, 0.2 if n < good else 30.0, 0.5, True, 1.0, 0.1) for n, offset in enumerate(offsets)
    ]


def test_the_interval_is_wilsons():
    # Newcombe, Stat. Med. 17 (1998): the score interval of 81 of 263.
    assert interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert interval(200, 200)[1] == pytest.approx(1) and interval(0, 5)[0] == 0 and interval(0, 0) == (0, 1)


def test_a_job_ends_with_its_certificate_on_its_own_cases(finished):
    ct, folder = finished
    figures = read_certificate(folder)
    assert figures["cases"] == 2 and len(figures["errors"]) == 2 and figures["fingerprint"] == ct.fingerprint
    assert not figures["certified"] and "only 2 cases" in figures["reasons"][0]
    assert sum(map(sum, figures["captureMap"]["cases"])) == 2
    status = read_status(folder)
    brief = status["certificate"]
    assert status["state"] == "done" and brief["cases"] == 2 and brief["certified"] is False
    assert brief["success"] == figures["rate"]
    text = (folder / "certificate.html").read_text(encoding="utf-8")
    assert "Not certified" in text and text.count("<svg") == 1
    assert "2 simulated cases" in (folder / "log.txt").read_text()
    assert json.dumps(figures).find(str(folder.parent)) < 0


def test_enough_good_cases_are_certified_and_too_many_failures_are_not(finished):
    model = PoseModel.load(finished[1])
    for good, certified in ((198, True), (170, False)):
        figures = summary(outcomes(model, 200, good), model)
        assert figures["certified"] is certified and figures["successes"] == good
        assert figures["interval"] == pytest.approx(list(interval(good, 200)))
        assert ("Certified." in page(figures | {"versions": {}})) is certified
    assert "as low as" in figures["reasons"][0]


def test_the_capture_map_counts_every_case_where_it_lies(finished):
    model = PoseModel.load(finished[1])
    offsets = np.zeros((3, 6))
    offsets[1, :3] = np.deg2rad([20, 20, 20])
    offsets[2, 5] = 40
    counted = capture_map(offsets, np.array([True, False, True]), model, bins=2)
    assert counted["cases"] == [[0, 2], [0, 1]] and counted["successes"] == [[0, 2], [0, 0]]


def test_an_unfinished_model_and_another_ct_are_refused(finished, tmp_path):
    ct, folder = finished
    hu = ct.hu.copy()
    hu[0, 0, 0] += 1
    with pytest.raises(InputError, match="this is another"):
        certify(folder, CTVolume.from_array(hu, ct.affine), cases=1)
    job = Job.create(tmp_path / "job", ct, task(ct), preset("tiny", seconds=1e6), device="cpu")
    calls: list[int] = []
    run_job(job.folder, cancel=lambda: calls.append(1) or len(calls) > 50)
    assert read_status(job.folder)["state"] == "stopped" and read_certificate(job.folder) is None
    with pytest.raises(InputError, match="no certificate for job: The model is not finished"):
        certify(job.folder, ct, cases=1)


def test_a_model_warns_of_what_was_not_certified(finished):
    from dataclasses import replace

    from DiffPoseSlicerLib.imaging.xray import XrayImage

    model = PoseModel.load(finished[1])
    pixels = np.random.default_rng(0).normal(size=model.carm.image_size).astype(np.float32)
    own = XrayImage(pixels, model.carm)
    assert [text for text in model.warnings(own) if "only 2 cases" in text]
    # A detector half as far again that shows the same rays, and one that shows half of them.
    factor = 1.5 * np.array(model.carm.pixel_spacing)
    far = replace(model.carm, source_to_detector=1.5 * model.carm.source_to_detector, pixel_spacing=tuple(factor))
    assert [text for text in model.warnings(XrayImage(pixels, far)) if "the X-ray's is at 1500 mm" in text]
    half = replace(model.carm, pixel_spacing=(2.0, 4.0), principal_point=(37.0, 31.0))
    assert [text for text in model.warnings(XrayImage(pixels, half)) if "of the field of view" in text]
    model.certificate = {"certified": True, "reasons": [], "doubt95": 100.0}
    assert not [text for text in model.warnings(own) if "certif" in text and "outside" not in text]
