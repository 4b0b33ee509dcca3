"""Collimator blades are found whatever their outline, and nothing is taken for blades that is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from DiffPoseSlicerLib.evaluation.stress import Exposure, _instrument, expose, opening
from DiffPoseSlicerLib.imaging.blades import collimated_field
from DiffPoseSlicerLib.imaging.shutter import lit_field


@pytest.fixture(scope="module")
def body() -> np.ndarray:
    """Line integrals of a smooth body with a spine in it, air at one side."""
    v, u = np.mgrid[0:200, 0:240].astype(float)
    trunk = 4 * np.sqrt(np.clip(1 - ((u - 100) / 110) ** 2, 0, 1))
    return trunk + 1.2 * np.exp(-(((u - 105) / 12) ** 2)) * (1 + 0.2 * np.sin(v / 6))


@pytest.mark.parametrize("collimator", ["circle", "rectangle"])
@pytest.mark.parametrize("seed", range(4))
def test_blades_are_found_whatever_their_outline(body: np.ndarray, collimator: str, seed: int):
    image = expose(body, Exposure(collimator=collimator), np.random.default_rng(seed)).pixels
    lit = lit_field(image)
    assert lit is not None
    # The opening is the first thing that is drawn.
    truth = opening(body.shape, collimator, np.random.default_rng(seed)) > 0.5
    assert (lit & ~truth).sum() < 0.002 * lit.sum()
    assert (lit & truth).sum() > 0.85 * truth.sum()


@pytest.mark.parametrize("exposure", [Exposure(), Exposure(instruments=4), Exposure(saturated=0.25), Exposure(gamma=2)])
@pytest.mark.parametrize("seed", range(4))
def test_nothing_else_is_taken_for_blades(body: np.ndarray, exposure: Exposure, seed: int):
    assert lit_field(expose(body, exposure, np.random.default_rng(seed)).pixels) is None


HARD = {
    "plain": Exposure(),
    "noise": Exposure(photons=500),
    "scatter behind the blades": Exposure(scatter=2.0),
    "processed": Exposure(clahe=True),
    "saturated, instruments": Exposure(saturated=0.2, instruments=2),
}


@pytest.mark.parametrize("collimator", ["circle", "rectangle"])
@pytest.mark.parametrize("kind", HARD)
def test_round_and_straight_fields_are_found_as_a_whole(body: np.ndarray, collimator: str, kind: str):
    found = 0
    for seed in range(6):
        image = expose(body, replace(HARD[kind], collimator=collimator), np.random.default_rng(seed)).pixels
        field = collimated_field(image)
        # The metal of instruments is drawn before the opening is.
        rng = np.random.default_rng(seed)
        for _ in range(HARD[kind].instruments):
            _instrument(body.shape, rng)
        truth = opening(body.shape, collimator, rng) > 0.5
        if field is None:
            continue
        assert (field & ~truth).sum() < 0.01 * truth.sum()
        found += (field & truth).sum() > 0.85 * truth.sum()
    assert found >= 4


@pytest.mark.parametrize("kind", HARD)
def test_no_field_is_found_without_a_collimator(body: np.ndarray, kind: str):
    for seed in range(6):
        assert collimated_field(expose(body, HARD[kind], np.random.default_rng(seed)).pixels) is None
