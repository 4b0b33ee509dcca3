"""The page of a registration: what it says, that it needs nothing else, that it names nobody unasked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from browser import assert_self_contained, open_page
from DiffPoseSlicerLib import CArm, CTVolume, Pose, XrayImage, register, render
from DiffPoseSlicerLib.cli.main import main
from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.evaluation.report import report, write_report
from DiffPoseSlicerLib.page import Line, document, facts, figure, plot, png, table
from DiffPoseSlicerLib.registration.result import RegistrationResult, Trust, odds

CARM = CArm(1020.0, (96, 128), (3.0, 2.4), intensity="transmission")


@pytest.fixture(scope="module")
def registered(small_ct: CTVolume) -> tuple[XrayImage, RegistrationResult]:
    nominal = Pose.from_view("AP", small_ct, CARM)
    truth = Pose.about(nominal.camera_to_ras[:3, :3], small_ct.center, CARM, [0.05, 0.04, -0.1, 5, -4, 10])
    xray = XrayImage.from_array(np.rint(np.exp(-render(small_ct, CARM, truth)) * 60000).astype(np.uint16), CARM)
    return xray, register(small_ct, xray, nominal)


def test_the_page_says_what_is_known(small_ct: CTVolume, registered: tuple, tmp_path: Path) -> None:
    xray, result = registered
    sure = RegistrationResult(**{**vars(result), "trust": Trust(False, 0.42, ("seen only in part", "a < b & c"))})
    warned = sure.to_json() | {"expectedErrorMm": 0.737, "warnings": ["seems mirrored"]}
    write_report(tmp_path / "page.html", small_ct, xray, warned)
    assert_self_contained((tmp_path / "page.html").read_text())
    seen = open_page(tmp_path / "page.html", tmp_path)
    for words in (
        "Not trusted.", "seen only in part", "a < b & c", "42%", "0.74 mm", "seems mirrored", "1020 mm — given",
        "96 x 128 pixels", "3 x 2.4 mm", f"{result.iterations} iterations", small_ct.fingerprint[:16], "DiffPoseSlicer",
        "Treated as transmission because it was stated.", f"{result.similarities[0]:.3f}",
    ):  # fmt: skip
        assert words in seen.text, words
    assert seen.dom.count("<img") == 4 and seen.dom.count('src="data:image/png') == 4
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(seen.picture)))[..., :3].astype(int)
    red, green, blue = np.moveaxis(picture, -1, 0)
    assert ((red > 200) & (green > 100) & (green < 200) & (blue < 80)).sum() > 100  # the overlay's edges are there
    assert "Patient" not in seen.text


def test_a_patient_is_named_only_where_asked(small_ct: CTVolume, registered: tuple) -> None:
    xray, result = registered
    words = re.sub("base64,[^\"']*", "", report(small_ct, [xray], result))  # any three letters occur in a picture
    assert "Doe" not in words
    assert "Patient: Doe &lt;7&gt;" in report(small_ct, [xray], result, patient="Doe <7>")


@pytest.mark.parametrize(("probability", "words"), [(0.9999, "more than 99%"), (0.973, "97%"), (0.0, "0%")])
def test_no_registration_is_called_certain(
    small_ct: CTVolume, registered: tuple, probability: float, words: str
) -> None:
    xray, result = registered
    trust = {"trusted": probability > 0.5, "probability": probability, "reasons": []}
    assert odds(probability) == words
    assert f">{words}<" in report(small_ct, [xray], result.to_json() | {"trust": trust})


def test_another_number_of_xrays_is_refused(small_ct: CTVolume, registered: tuple) -> None:
    xray, result = registered
    with pytest.raises(InputError, match="1 views and there are 2"):
        report(small_ct, [xray, xray], result)
    with pytest.raises(InputError, match="cameraToRAS"):
        report(small_ct, [xray], {"views": [{}]})


def test_the_command_line_writes_the_same_page(small_ct: CTVolume, registered: tuple, tmp_path: Path) -> None:
    xray, result = registered
    small_ct.write(tmp_path / "ct.nii.gz")
    CARM.write(tmp_path / "carm.json")
    result.pose.write(tmp_path / "start.json")
    np.save(tmp_path / "xray.npy", xray.stored.astype(np.float32))
    files = [str(tmp_path / "ct.nii.gz"), str(tmp_path / "xray.npy"), "--carm", str(tmp_path / "carm.json")]
    made = [tmp_path / "with.html", tmp_path / "after.html"]
    found = tmp_path / "result.json"
    start = f"pose:{tmp_path / 'start.json'}"
    assert main(["register", *files, "--start", start, "-o", str(found), "--report", str(made[0])]) == 0
    assert main(["report", str(found), *files, "--patient", "No. 7", "-o", str(made[1])]) == 0
    first, second = (page.read_text(encoding="utf-8") for page in made)
    similarity = json.loads(found.read_text())["views"][0]["similarity"]
    for page in (first, second):
        assert f"{similarity:.3f}" in page and page.count("data:image/png") == 4
    assert "No. 7" in second and "No. 7" not in first
    assert main(["report", str(found), *files, "-o", str(tmp_path / "page.pdf")]) == 2


def test_the_command_line_registers_by_the_method_of_others(
    small_ct: CTVolume, registered: tuple, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    xray, result = registered
    small_ct.write(tmp_path / "ct.nii.gz")
    CARM.write(tmp_path / "carm.json")
    Pose(result.pose.camera_to_ras @ np.array([[1, 0, 0, 4], [0, 1, 0, 3], [0, 0, 1, 0], [0, 0, 0, 1.0]])).write(
        tmp_path / "start.json"
    )
    np.save(tmp_path / "xray.npy", xray.stored.astype(np.float32))
    command = [
        "register",
        str(tmp_path / "ct.nii.gz"),
        str(tmp_path / "xray.npy"),
        "--carm",
        str(tmp_path / "carm.json"),
    ]
    command += ["--method", "first-order", "-o", str(tmp_path / "result.json"), "--report", str(tmp_path / "page.html")]
    assert main([*command, "--start", f"pose:{tmp_path / 'start.json'}"]) == 0
    found = Pose.read(tmp_path / "result.json")
    assert np.linalg.norm((found.camera_to_ras - result.pose.camera_to_ras)[:2, 3]) < 4
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "says nothing of its own success" in page and "Spread of" not in page
    assert main([*command, "--start", "search"]) == 2
    assert "needs one pose to start from" in capsys.readouterr().err


def test_pictures_survive(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for shape in ((5, 7), (6, 4, 3)):
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        (tmp_path / "image.png").write_bytes(png(image))
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "image.png"))), image)


def test_parts_of_a_page_escape_what_they_are_given() -> None:
    wrong = '<script>"&'
    line = Line(wrong, [0, 1], [0, 1], marks=True)
    axes = {"x_range": (0, 1), "y_range": (0, 1), "x_ticks": (0, 1), "y_ticks": (0, 1)}
    text = document(
        wrong,
        table([wrong], [[wrong]]),
        facts([(wrong, wrong)]),
        figure(np.zeros((2, 2), np.uint8), wrong),
        plot([line], wrong, wrong, **axes),
    )
    assert "<script" not in text and text.count("&lt;script&gt;") >= 9


def test_lines_can_be_told_apart_without_colour() -> None:
    axes = {"x_range": (0, 1), "y_range": (0, 1), "x_ticks": (0, 1), "y_ticks": (0, 1)}
    lines = [Line(str(n), [0, 1], [0, 1], marks=True) for n in range(4)]
    svg = plot(lines, "x", "y", **axes)
    drawn = re.findall(r'<polyline[^>]*stroke="(#\w+)"[^>]*stroke-dasharray="([^"]*)"', svg)
    assert len({colour for colour, _ in drawn}) == len({dash for _, dash in drawn}) == 4
    assert all(f"<{shape}" in svg for shape in ("circle", "rect", "polygon"))


def test_many_lines_still_differ_and_the_legend_shows_them_all() -> None:
    axes = {"x_range": (0, 1), "y_range": (0, 1), "x_ticks": (0, 1), "y_ticks": (0, 1)}
    svg = plot([Line(f"method {n} with a name of some length", [0, 1], [0, 1]) for n in range(24)], "x", "y", **axes)
    drawn = re.findall(r'<polyline[^>]*stroke="(#\w+)"[^>]*stroke-dasharray="([^"]*)"', svg)
    assert len(set(drawn)) == 24
    width, height = (float(size) for size in re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
    words = re.findall(r'<text x="([\d.]+)" y="([\d.]+)">(method [^<]*)', svg)
    assert len(words) == 24
    assert all(float(x) + 5.5 * len(name) < width and float(y) < height for x, y, name in words)
