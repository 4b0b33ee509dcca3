"""500 damaged files: each ends in an image or one clear line; the engine stays alive or comes back."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "Benchmarks" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_damaged_files_end_in_an_image_or_one_clear_line(fuzz):
    report = fuzz.fuzz(500, seed=2)
    assert report.problems == []
    assert report.outcomes["refused"] > 200
    assert report.outcomes["read"] > 50  # the damage is not so heavy that only headers are tried
    assert report.peak_kb < fuzz.MEMORY_LIMIT // 1024


def test_a_reader_that_dies_or_hangs_comes_back(fuzz, tmp_path, monkeypatch):
    image = next(path for path in fuzz.write_corpus(tmp_path) if path.suffix == ".dcm")
    reader = fuzz.Reader()
    try:
        assert "read" in reader.read(image)
        reader.transport._process.kill()
        answer = reader.read(image)  # the end may be noticed before this request or with it
        assert "read" in answer or image.name in answer["died"]
        assert "read" in reader.read(image)
        monkeypatch.setattr(fuzz, "TIME_LIMIT", 0.0)
        assert "hung" in reader.read(image)
        monkeypatch.undo()
        assert "read" in reader.read(image)
    finally:
        reader.close()


def test_the_same_number_makes_the_same_file(fuzz):
    import numpy as np

    data = bytes(range(256)) * 20
    first, again, other = (fuzz.damaged(data, np.random.default_rng([1, n])) for n in (7, 7, 8))
    assert first == again
    assert first != other
    assert first != data
