"""Local correlation: its derivatives, its masks, its robustness, against values worked out another way."""

from __future__ import annotations

import numpy as np
import pytest

from DiffPoseSlicerLib.registration.similarity import LocalCorrelation, Patches, noise_level, noise_map


def _problem(rng: np.random.Generator, batch: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A rendered image that depends linearly on six parameters, and an X-ray near it: (x-ray, image, jacobian)."""
    image = rng.normal(size=(batch, 4 * 64)).astype(np.float32) + 3
    jacobian = rng.normal(size=(batch, 4 * 64, 6)).astype(np.float32)
    xray = (image[0] * 2 + 5 + 0.5 * rng.normal(size=image[0].shape)).reshape(4, 64)
    return xray, image, jacobian


def test_tiles_cover_the_image_once_and_stay_inside():
    patches = Patches.tile((33, 50), 16)
    assert (patches.count, patches.size) == (2 * 3, 256)
    assert len(np.unique(patches.pixels, axis=0)) == patches.count * patches.size
    assert (patches.pixels >= 0).all() and (patches.pixels < [50, 33]).all()


def test_taken_values_are_the_pixels_named():
    image = np.arange(20 * 30.0).reshape(20, 30)
    patches = Patches.tile((20, 30), 8)
    u, v = patches.pixels.reshape(patches.count, patches.size, 2)[3, 5].astype(int)
    assert patches.take(image)[3, 5] == image[v, u]


def test_correlation_equals_numpy_corrcoef():
    rng = np.random.default_rng(0)
    xray, image, jacobian = _problem(rng)
    terms = LocalCorrelation(xray, np.ones_like(xray), robust=False)(image, jacobian, None)
    # The patches have nearly equal contrast, so their weights are equal.
    expected = [np.mean([np.corrcoef(a, f)[0, 1] for a, f in zip(i.reshape(4, 64), xray)]) for i in image]
    assert terms.ncc == pytest.approx(expected, abs=2e-3)
    assert terms.cost == pytest.approx(2 * (1 - terms.ncc), abs=2e-3)


@pytest.mark.parametrize("masked", [False, True])
def test_gradient_and_matrix_against_finite_differences(masked: bool):
    rng = np.random.default_rng(1)
    xray, image, jacobian = _problem(rng, 1)
    mask = (rng.random(xray.shape) > 0.3 * masked).astype(float)
    compare = LocalCorrelation(xray, mask, robust=False)
    terms = compare(image, jacobian, None)
    h = 1e-3
    for column in range(6):
        up = compare(image + h * jacobian[..., column], None, None).cost
        down = compare(image - h * jacobian[..., column], None, None).cost
        # cost is the mean squared residual; `gradient` is half its derivative.
        assert 2 * terms.gradient[0, column] == pytest.approx((up - down)[0] / (2 * h), abs=2e-3)
    # Gauss-Newton: positive definite, and exact in the limit of small residuals.
    assert np.linalg.eigvalsh(terms.matrix[0]).min() > 0
    exact = LocalCorrelation(image.reshape(4, 64), mask, robust=False)
    matrix = exact(image, jacobian, None).matrix[0]
    for column in range(6):
        bent = exact(image + 0.02 * jacobian[..., column], None, None).cost[0]
        assert bent == pytest.approx(matrix[column, column] * 0.02**2, rel=0.05)


def test_masked_pixels_have_no_say():
    rng = np.random.default_rng(2)
    xray, image, jacobian = _problem(rng, 1)
    mask = np.ones_like(xray)
    mask[:, :20] = 0
    spoiled = xray.copy()
    spoiled[:, :20] = 1e3
    clean, dirty = (LocalCorrelation(x, mask)(image, jacobian, None) for x in (xray, spoiled))
    for name in ("cost", "ncc", "gradient", "matrix"):
        np.testing.assert_allclose(getattr(dirty, name), getattr(clean, name), rtol=2e-2, atol=2e-3)


def test_robust_weights_ignore_what_does_not_fit():
    rng = np.random.default_rng(3)
    xray, image, jacobian = _problem(rng, 1)
    xray = (image * 2 + 5).reshape(4, 64) + 0.01 * rng.normal(size=(4, 64))
    spoiled = xray.copy()
    spoiled[:, ::9] += 8.0
    plain = LocalCorrelation(spoiled, np.ones_like(xray), robust=False)(image, jacobian, None)
    robust = LocalCorrelation(spoiled, np.ones_like(xray), robust=True)(image, jacobian, None)
    assert robust.ncc[0] > 0.98 > plain.ncc[0]
    assert np.abs(robust.gradient).max() < 0.3 * np.abs(plain.gradient).max()


def test_a_pose_does_not_depend_on_its_batch():
    rng = np.random.default_rng(4)
    xray, image, jacobian = _problem(rng, 5)
    compare = LocalCorrelation(xray, np.ones_like(xray))
    together = compare(image, jacobian, None)
    for row in range(5):
        alone = compare(image[row : row + 1], jacobian[row : row + 1], None)
        assert alone.cost[0] == pytest.approx(together.cost[row], rel=1e-5)
        np.testing.assert_allclose(alone.gradient[0], together.gradient[row], rtol=1e-3, atol=1e-5)


def test_scale_of_the_xray_does_not_matter():
    rng = np.random.default_rng(5)
    xray, image, jacobian = _problem(rng, 1)
    one = LocalCorrelation(xray, np.ones_like(xray))(image, jacobian, None)
    other = LocalCorrelation(xray * 1000 - 7, np.ones_like(xray))(image, jacobian, None)
    np.testing.assert_allclose(other.gradient, one.gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.02, 0.5])
def test_noise_level_of_a_smooth_image_with_known_noise(sigma: float):
    rng = np.random.default_rng(6)
    v, u = np.mgrid[0:128, 0:128] / 128
    assert noise_level(np.sin(3 * u) + v**2 + sigma * rng.normal(size=(128, 128))) == pytest.approx(sigma, rel=0.1)


def test_noise_is_told_apart_by_grey_level():
    """Where little comes through an attenuation image is noisier: photons, and coarse grey levels."""
    rng = np.random.default_rng(7)
    smooth = np.linspace(0, 4, 128)[:, None] + np.zeros(128)
    noise = noise_map(smooth + np.exp(smooth / 2) * 0.02 * rng.normal(size=smooth.shape))
    assert noise[20].mean() == pytest.approx(0.02 * np.exp(smooth[20, 0] / 2), rel=0.25)
    assert noise[110].mean() == pytest.approx(0.02 * np.exp(smooth[110, 0] / 2), rel=0.25)


def test_a_noisy_patch_has_less_say_than_a_clear_one():
    rng = np.random.default_rng(8)
    xray, image, _ = _problem(rng, 1)
    noise = np.zeros(xray.shape)
    noise[0] = xray[0].std()
    even, uneven = (LocalCorrelation(xray, np.ones_like(xray), n)(image, None, None) for n in (0.0, noise))
    assert even.weights[0].share[0, 0] == pytest.approx(0.25, abs=0.03)
    assert uneven.weights[0].share[0, 0] < 0.02
