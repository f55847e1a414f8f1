"""The checks of a calibration, and the corruptions of images for it."""

import csv

import jax
import numpy as np
import pytest

from sslshift.data.corruptions import CORRUPTIONS, SEVERITIES, corrupted, destroyed
from sslshift.shift import ShiftIndex
from sslshift.study import calibration, cli
from sslshift.study.calibration import Agreement, agreement, steps
from sslshift.study.declare import Study
from sslshift.transfer.inference.correlation import rank_correlation

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    smooth = random.normal(size=(6, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(128 + 50 * smooth, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_images_get_worse_by_degrees(images, kind):
    series = [corrupted(images, kind, severity, key=KEY) for severity in (0, *SEVERITIES)]
    assert all(each.dtype == np.uint8 and each.shape == images.shape for each in series)
    np.testing.assert_array_equal(series[0], images)
    errors = [np.abs(each.astype(float) - images).mean() for each in series]
    assert np.all(np.diff(errors) > 0.5)


def test_contrast_by_hand_and_noise_by_key():
    image = np.array([0, 100, 200], np.uint8).reshape(1, 1, 3, 1)
    # The mean is 100; severity 2 leaves 0.55 of the distance to it.
    assert corrupted(image, "contrast", 2, key=KEY).ravel().tolist() == [45, 100, 155]
    flat = np.full((1, 64, 64, 1), 128, np.uint8)
    first, again, other = (corrupted(flat, "noise", 1, key=jax.random.key(seed)).astype(float) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.std() == pytest.approx(0.05 * 255, rel=0.05)
    assert (first != other).mean() > 0.9


def test_a_blur_keeps_what_is_flat_and_does_not_mix_channels_or_images():
    images = np.zeros((2, 8, 8, 2), np.uint8)
    images[1, :, :, 1] = 200
    np.testing.assert_array_equal(corrupted(images, "blur", 5, key=KEY), images)


def test_unknown_corruptions_are_refused(images):
    for kind, severity in (("fog", 1), ("blur", 6)):
        with pytest.raises(ValueError, match="Expected one of blur, noise, contrast and a severity from 0 to 5"):
            corrupted(images, kind, severity, key=KEY)


def index_of(*draws, floor=0.0):
    values = np.array(draws)
    return ShiftIndex(values.mean(), values.mean() - 0.1, values.mean() + 0.1, 0, floor, 1, 50, len(draws), draws)


def test_destroyed_images_keep_what_they_say_and_lose_their_places(random):
    """On images with a gradient, whose neighbouring pixels are alike before and not afterwards."""
    ramp = np.linspace(0, 255, 16).astype(np.uint8)
    images = np.stack([np.broadcast_to(ramp, (16, 16)), np.full((16, 16), 77, np.uint8)] * 3, axis=0)[..., None].repeat(
        3, axis=-1
    )
    found = destroyed(images, key=jax.random.key(0))
    assert list(found) == ["noise", "pixels", "blocks_2", "blocks_4", "phases"]
    for name, each in found.items():
        assert (each.shape, each.dtype) == (images.shape, np.uint8)
        if name in ("pixels", "blocks_2", "blocks_4"):
            np.testing.assert_array_equal(np.sort(each.reshape(6, -1)), np.sort(images.reshape(6, -1)))
            assert (each != images).any()
        assert np.isin(each, images).all() or name == "phases"
    # Within a block of four pixels the gradient is whole.
    rows = found["blocks_4"][0, :, :, 0].reshape(16, 4, 4).astype(int)
    np.testing.assert_array_equal(np.diff(rows, axis=-1), np.diff(np.sort(rows, axis=-1), axis=-1))
    # Amplitudes are kept up to rounding and what lies outside of 0 to 255.
    noisy = random.integers(100, 156, (2, 16, 16, 1)).astype(np.uint8)
    turned = destroyed(noisy, key=jax.random.key(1))["phases"]
    before, after = (np.abs(np.fft.fft2(each, axes=(1, 2))) for each in (noisy, turned))
    np.testing.assert_allclose(after, before, atol=20)
    assert np.corrcoef(noisy.ravel(), turned.ravel())[0, 1] < 0.3


def test_agreement_counts_and_adds_up():
    one = agreement([index_of(0.5), index_of(0.8)], index_of(0.6))
    assert one == Agreement(1, 2, 0.2)
    assert one + Agreement(3, 4, 0.1) == Agreement(4, 6, 0.2)


def test_steps_are_paired_over_draws():
    """The second series falls in every draw by about the same: that is shown, though draws differ by far more."""
    base = np.array([0.1, 0.5, 0.9, 0.3])
    rising = [index_of(*(base + step)) for step in (0.0, 0.1, 0.2)]
    assert steps(rising) == (2, 0, 2)
    falling = [index_of(*base), index_of(*(base - [0.10, 0.11, 0.10, 0.09]))]
    assert steps(falling) == (0, 1, 1)
    assert steps(rising) + steps(falling) == (2, 1, 3)


def test_rank_correlation_of_a_perfect_and_of_a_reversed_order(random):
    losses = np.arange(8.0)[:, None] + random.normal(0, 0.01, (8, 3))
    assert rank_correlation(np.arange(8.0) ** 2, losses).value == pytest.approx(1)
    found = rank_correlation(-np.arange(8.0), losses)
    assert found.value == pytest.approx(-1)
    assert found.high < -0.9
    unrelated = rank_correlation(random.permutation(8).astype(float), random.normal(size=(8, 3)))
    assert unrelated.low < 0 < unrelated.high
    with pytest.raises(ValueError, match="at least four sources"):
        rank_correlation(np.arange(3.0), losses[:3])


@pytest.mark.slow
def test_a_study_is_calibrated_and_says_so_in_a_table(tmp_path, monkeypatch):
    """The whole of it, small: one distance on three kinds of features; a second call computes nothing."""
    monkeypatch.setattr(calibration, "SIZES", (50, 100, 200))
    monkeypatch.setattr(calibration, "_SERIES_IMAGES", 100)
    monkeypatch.setattr(calibration, "INDEX_DISTANCES", ("kernel",))
    monkeypatch.setattr(cli, "_report", lambda results, progress, command, timings: None)
    study = Study(
        sources="bundled:mnist@40,400; synthetic:noise?size=300@300",
        mixture=("half = digits:bundled:mnist@150*0.5 + noise:synthetic:noise?size=300@150*0.5",),
        downstream="bundled:mnist",
        downstream_test="bundled:mnist/test",
        evaluations="linear",
        budget=640,
        batch_size=64,
        seeds=1,
        labelled=100,
        untrained_seeds=1,
        shift_images=100,
        head="32,16",
        out=str(tmp_path),
    )
    calibration.run_calibration(study)
    rows = [line.split(" | ") for line in (tmp_path / "calibration.md").read_text().splitlines()]
    assert len(rows) == 2 + 3
    assert {row[0].strip("| ") for row in rows[2:]} == {"raw pixels", "untrained encoder", "trained on equal shares"}
    # Digits half of which are noise are farther than digits, and noise farther still.
    assert all(row[4] == "4 of 4" for row in rows[2:])
    assert all("[" in row[9] for row in rows[2:])
    lines = (tmp_path / "calibration.csv").read_text().splitlines()
    assert len(lines) > 3 * 30
    candidates = [row for row in csv.DictReader(lines) if row["part"] == "candidates"]
    for features in {row["features"] for row in candidates}:
        value = {row["case"]: float(row["value"]) for row in candidates if row["features"] == features}
        assert value["bundled:mnist"] < value["half"] < value["synthetic:noise?size=300"]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "calibration").rglob("result.json")}
    calibration.run_calibration(study)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "calibration").rglob("result.json")} == kept
    assert (tmp_path / "calibration.csv").read_text().splitlines() == lines
