"""The command line: files in, files out, and one clear line for whatever is wrong with them."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from DiffPoseSlicerLib import CArm, CTVolume, Pose, XrayImage, render
from DiffPoseSlicerLib.cli import main as cli
from DiffPoseSlicerLib.cli.points import read_points
from DiffPoseSlicerLib.errors import InputError

CARM = CArm(1020.0, (72, 64), (4.2, 4.5), principal_point=(29.0, 38.0), intensity="transmission")


@pytest.fixture(scope="module")
def files(small_ct, tmp_path_factory):
    """A folder with everything a command takes: ct.nii.gz, carm.json, pose.json and simulated X-rays in sim/."""
    folder = tmp_path_factory.mktemp("cli")
    small_ct.write(folder / "ct.nii.gz")
    CARM.write(folder / "carm.json")
    Pose.from_view("AP", small_ct, CARM, lao_rao=10).write(folder / "pose.json")
    arguments = [folder / "ct.nii.gz", "--carm", folder / "carm.json", "--view", "AP", "-n", "2", "--seed", "4"]
    ranges = ["--rotation", "10", "10", "10", "--translation", "10", "10", "30"]
    assert run("simulate", *arguments, *ranges, "--format", "png", "-o", folder / "sim") == 0
    assert run("simulate", *arguments, *ranges, "-o", folder / "dicom") == 0
    return folder


def run(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_simulate_register_evaluate(files, small_ct, tmp_path, capsys):
    truth = Pose.read(files / "sim" / "truth_001.json")
    offset = [0.03, -0.04, 0.03, 5, -4, 10]
    Pose.about(truth.camera_to_ras[:3, :3], small_ct.center, CARM, offset).write(tmp_path / "start.json")
    turned = Pose.about(truth.camera_to_ras[:3, :3], small_ct.center, CARM, offset)
    shift = truth.ras_to_camera @ [*small_ct.center, 1] - turned.ras_to_camera @ [*small_ct.center, 1]
    assert np.linalg.norm(shift) > 5

    result, overlay = tmp_path / "result.json", tmp_path / "overlay.png"
    command = ["register", files / "ct.nii.gz", files / "sim" / "xray_001.png", "--carm", files / "sim" / "carm.json"]
    assert run(*command, "--start", f"pose:{tmp_path / 'start.json'}", "-o", result, "--overlay", overlay) == 0
    said = capsys.readouterr()
    assert "similarity" in said.out and "iteration" in said.err
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(overlay))).shape == (*CARM.image_size, 3)
    data = json.loads(result.read_text())
    assert {"views", "ctToWorld", "trust", "expectedErrorMm", "covariance", "center", "c0"} <= set(data)
    assert {"hypotheses", "iterations", "seconds", "start", "versions"} <= set(data)

    figures = tmp_path / "figures.json"
    assert run("evaluate", result, "--truth", files / "sim" / "truth_001.json", "-o", figures) == 0
    said = capsys.readouterr().out
    (errors,) = json.loads(figures.read_text())["views"]
    assert errors["mTRE"] < 1.0
    assert f"{errors['mTRE']:.4f} mm" in said
    for name in ("mTRE", "mRPD", "mPE", "rotation", "translation"):
        assert sum(line.startswith(name) for line in said.splitlines()) == 1
    found = Pose.read(result)
    np.testing.assert_allclose(np.array(data["ctToWorld"]), np.array(data["c0"]) @ found.ras_to_camera, atol=1e-9)


def test_a_search_needs_no_start(files, tmp_path):
    command = ["register", files / "ct.nii.gz", files / "sim" / "xray_000.png", "--carm", files / "carm.json"]
    ranges = ["--view", "AP", "--rotation", "10", "10", "10", "--translation", "10", "10", "30"]
    assert run(*command, "--start", "search", *ranges, "-o", tmp_path / "result.json") == 0
    assert json.loads((tmp_path / "result.json").read_text())["start"] == "search"
    figures = tmp_path / "figures.json"
    truth = files / "sim" / "truth_000.json"
    assert run("evaluate", tmp_path / "result.json", "--truth", truth, "-o", figures) == 0
    assert json.loads(figures.read_text())["views"][0]["mTRE"] < 1.0


def test_a_region_of_the_ct_registers_in_the_coordinates_of_the_whole(files, small_ct, tmp_path, capsys):
    truth = files / "dicom" / "truth_000.json"
    command = ["register", files / "ct.nii.gz", files / "dicom" / "xray_000.dcm", "--start", f"pose:{truth}"]
    low, high = small_ct.center - [100, 90, 140], small_ct.center + [110, 100, 150]
    result, figures = tmp_path / "result.json", tmp_path / "figures.json"
    assert run(*command, "--body", "--region", *low, *high, "-o", result) == 0
    data = json.loads(result.read_text())
    np.testing.assert_allclose(data["center"], small_ct.center)  # never of a crop
    assert run("evaluate", result, "--truth", truth, "-o", figures) == 0
    assert json.loads(figures.read_text())["views"][0]["mTRE"] < 3.0
    capsys.readouterr()
    assert run(*command, "--region", 900, 900, 900, 950, 950, 950, "-o", result) == 2
    assert "outside the CT" in capsys.readouterr().err


def test_landmarks_and_dicom_angles_start_a_registration(files, small_ct, tmp_path):
    truth = Pose.read(files / "dicom" / "truth_000.json")
    rng = np.random.default_rng(2)
    points = small_ct.center + rng.uniform(-70, 70, (6, 3))
    pixels = CARM.project(points @ truth.ras_to_camera[:3, :3].T + truth.ras_to_camera[:3, 3])
    pairs = [{"name": str(n), "ras": p.tolist(), "pixel": q.tolist()} for n, (p, q) in enumerate(zip(points, pixels))]
    (tmp_path / "landmarks.json").write_text(json.dumps({"landmarks": pairs}))
    result, figures = tmp_path / "result.json", tmp_path / "figures.json"
    for start in ("dicom", f"landmarks:{tmp_path / 'landmarks.json'}"):
        command = ["register", files / "ct.nii.gz", files / "dicom" / "xray_000.dcm", "--start", start]  # no --carm
        assert run(*command, "-o", result) == 0
        assert json.loads(result.read_text())["start"] == start.partition(":")[0]
        assert run("evaluate", result, "--truth", files / "dicom" / "truth_000.json", "-o", figures) == 0
        assert json.loads(figures.read_text())["views"][0]["mTRE"] < 1.0


def test_evaluate_measures_at_given_points_of_any_frame(files, tmp_path, capsys):
    truth = Pose.read(files / "pose.json")
    wrong = truth.camera_to_ras.copy()
    wrong[:3, 3] += 2 * wrong[:3, 0]  # the camera 2 mm to its right: everything 2 mm to the left in its frame
    Pose(wrong).write(tmp_path / "estimate.json")
    points = {"points": [[0, 0, -150], [10, 20, -180]]}
    (tmp_path / "points.json").write_text(json.dumps(points))
    lps = [{"position": [-r, -a, s]} for r, a, s in points["points"]]
    slicer = {"markups": [{"coordinateSystem": "LPS", "controlPoints": lps}]}
    (tmp_path / "points.mrk.json").write_text(json.dumps(slicer))
    np.testing.assert_allclose(read_points(tmp_path / "points.mrk.json"), points["points"])
    command = ["evaluate", tmp_path / "estimate.json", "--truth", files / "pose.json"]
    assert run(*command, "--points", tmp_path / "points.json") == 0
    said = capsys.readouterr().out
    assert "mTRE             2.0000 mm" in said and "give the C-arm" in said
    assert "translation      2.0000 mm (right -2.0000, down 0.0000, depth 0.0000)" in said.replace("-0.0000", "0.0000")
    assert run(*command, "--points", tmp_path / "points.mrk.json", "--carm", files / "carm.json") == 0
    said = capsys.readouterr().out
    assert "mTRE             2.0000 mm" in said and "mPE" in said
    assert run(*command) == 2  # no centre, no points
    assert "--points" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".npy", ".nii.gz", ".png"])
def test_render_writes_what_the_library_renders(files, small_ct, tmp_path, ending):
    target = tmp_path / f"drr{ending}"
    command = ["render", files / "ct.nii.gz", "--carm", files / "carm.json", "--pose", files / "pose.json"]
    assert run(*command, "-o", target) == 0
    image = np.load(target) if ending == ".npy" else sitk.GetArrayFromImage(sitk.ReadImage(str(target)))
    expected = render(small_ct, CARM, Pose.read(files / "pose.json"))
    if ending == ".png":
        assert image.dtype == np.uint16 and image.min() == 0 and image.max() == 65535
        expected = (expected - expected.min()) * (65535 / np.ptp(expected))
    np.testing.assert_allclose(np.squeeze(image), expected, atol=1.0 if ending == ".png" else 1e-5)


def test_render_writes_dicom_with_its_geometry(files, small_ct, tmp_path):
    command = ["render", files / "ct.nii.gz", "--carm", files / "carm.json", "--pose", files / "pose.json"]
    assert run(*command, "-o", tmp_path / "drr.dcm") == 0
    xray = XrayImage.read(tmp_path / "drr.dcm")
    np.testing.assert_allclose(xray.carm.intrinsics, CARM.intrinsics, rtol=1e-6)
    seen = render(small_ct, CARM, Pose.read(files / "pose.json"))
    assert np.corrcoef(xray.pixels.ravel(), seen.ravel())[0, 1] > 0.999


def test_doctor_speaks_of_the_machine_and_of_files(files, tmp_path, capsys):
    assert run("doctor") == 0
    said = capsys.readouterr().out
    for word in ("Python", "cores", "memory", "numpy", "warp-lang", "torch", "renderer"):
        assert any(line.startswith(word) for line in said.splitlines()), word
    names = ["ct.nii.gz", "carm.json", "pose.json", "sim/truth_000.json", "sim/xray_000.png"]
    assert run("doctor", *(files / name for name in names)) == 0
    said = capsys.readouterr().out
    assert "voxels" in said and "field of view" in said and "source at" in said and "MISSING" in said
    assert run("doctor", files / "sim" / "xray_000.png", "--carm", files / "sim" / "carm.json") == 0
    assert "transmission" in capsys.readouterr().out


def test_joint_registration_takes_several_xrays(files, tmp_path):
    views = [json.loads((files / "sim" / f"truth_{n:03d}.json").read_text()) for n in (0, 1)]
    (tmp_path / "start.json").write_text(json.dumps({"views": views}))
    command = ["register", files / "ct.nii.gz", *(files / "sim" / f"xray_{n:03d}.png" for n in (0, 1))]
    start, result = f"pose:{tmp_path / 'start.json'}", tmp_path / "result.json"
    carm, overlay = files / "sim" / "carm.json", tmp_path / "overlay.png"
    assert run(*command, "--carm", carm, carm, "--start", start, "-o", result, "--overlay", overlay) == 0
    assert len(json.loads(result.read_text())["views"]) == 2
    shape = sitk.GetArrayFromImage(sitk.ReadImage(str(overlay))).shape
    assert shape == (CARM.image_size[0], 2 * CARM.image_size[1], 3)


# Everything that users get wrong. {0} is a folder with the good files and with what `bad` puts into it.
RENDER = "render {0}/ct.nii.gz --carm {0}/carm.json --pose {0}/pose.json -o {0}/out.npy"
REGISTER = "register {0}/ct.nii.gz {0}/sim/xray_000.png --carm {0}/carm.json --start pose:{0}/pose.json -o {0}/out.json"
SIMULATE = "simulate {0}/ct.nii.gz --carm {0}/carm.json -n 1 -o {0}/new"
EXPORT = "export {0}/pose.json"
EVALUATE = "evaluate {0}/pose.json --truth {0}/sim/truth_000.json"


def changed(command: str, old: str, new: str) -> str:
    assert old in command
    return command.replace(old, new, 1)


BAD = {
    "no command": ("", "COMMAND"),
    "unknown command": ("segment", "segment"),
    "missing option": ("render {0}/ct.nii.gz", "--carm"),
    "abbreviated option": (changed(RENDER, "--pose", "--pos"), "--pose"),
    "device": (RENDER + " --device gpu", "gpu"),
    "absent GPU": (RENDER + " --device cuda:77", "cuda:77"),
    "CT missing": (changed(RENDER, "ct.nii.gz", "none.nii.gz"), "none.nii.gz does not exist"),
    "CT 2D": (changed(RENDER, "ct.nii.gz", "2d.nrrd"), "2d.nrrd"),
    "CT 2D NIfTI": (changed(RENDER, "ct.nii.gz", "2d.nii.gz"), "2d.nii.gz"),
    "CT truncated": (changed(RENDER, "ct.nii.gz", "truncated.nii"), "truncated"),
    "CT truncated and compressed": (changed(RENDER, "ct.nii.gz", "truncated.nii.gz"), "truncated"),
    "CT affine without inverse": (changed(RENDER, "ct.nii.gz", "flat.nii"), "affine"),
    "CT no image": (changed(RENDER, "ct.nii.gz", "carm.json"), "carm.json"),
    "CT empty folder": (changed(RENDER, "ct.nii.gz", "empty"), "empty"),
    "CT not finite": (changed(RENDER, "ct.nii.gz", "nan.nii.gz"), "not finite"),
    "C-arm missing": (changed(RENDER, "carm.json", "none.json"), "none.json does not exist"),
    "C-arm no JSON": (changed(RENDER, "carm.json", "ct.nii.gz"), "ct.nii.gz"),
    "C-arm a list": (changed(RENDER, "carm.json", "list.json"), "list"),
    "C-arm incomplete": (changed(RENDER, "carm.json", "pose.json"), "lacks"),
    "C-arm of words": (changed(RENDER, "carm.json", "words.json"), "imageSize"),
    "pose not rigid": (changed(RENDER, "pose.json", "scaled.json"), "not rigid"),
    "pose of the wrong shape": (changed(RENDER, "pose.json", "3x3.json"), "(3, 3)"),
    "pose without a pose": (changed(RENDER, "pose.json", "carm.json"), "cameraToRAS"),
    "output's folder missing": (changed(RENDER, "out.npy", "no/out.npy"), "folder"),
    "output's ending": (changed(RENDER, "out.npy", "out.gif"), "out.gif"),
    "output a folder": (changed(RENDER, "out.npy", "folder.npy"), "folder.npy"),
    "X-ray missing": (changed(REGISTER, "xray_000.png", "none.png"), "none.png"),
    "X-ray without geometry": (changed(REGISTER, "--carm {0}/carm.json", ""), "geometry"),
    "X-ray of another size": (changed(REGISTER, "sim/xray_000.png", "small.png"), "imageSize"),
    "X-ray no image": (changed(REGISTER, "sim/xray_000.png", "carm.json"), "carm.json"),
    "two C-arms, one X-ray": (changed(REGISTER, "carm.json", "carm.json {0}/carm.json"), "2 C-arm files"),
    "two X-rays, one pose": (changed(REGISTER, "xray_000.png", "xray_000.png {0}/sim/xray_001.png"), "X-rays"),
    "start unknown": (changed(REGISTER, "pose:", "guess:"), "guess:"),
    "start without file": (changed(REGISTER, "pose:{0}/pose.json", "pose:"), "pose:"),
    "start with too much": (changed(REGISTER, "pose:{0}", "search:{0}"), "search:"),
    "no landmarks": (changed(REGISTER, "pose:", "landmarks:"), "landmarks"),
    "two landmarks": (changed(REGISTER, "pose:{0}/pose.json", "landmarks:{0}/landmarks.json"), "landmark"),
    "no angles": (changed(REGISTER, "pose:{0}/pose.json", "dicom"), "xray_000.png"),
    "start pose missing": (changed(REGISTER, "pose:{0}/pose.json", "pose:{0}/none.json"), "none.json"),
    "overlay's ending": (REGISTER + " --overlay {0}/o.jpg", "o.jpg"),
    "view": (REGISTER + " --view FRONTAL", "FRONTAL"),
    "range negative": (SIMULATE + " --rotation 1 -2 3", "-2"),
    "range not finite": (SIMULATE + " --translation 1 nan 3", "nan"),
    "range too short": (SIMULATE + " --rotation 1 2", "--rotation"),
    "count": (SIMULATE + " -n 0", "-n"),
    "seed": (SIMULATE + " --seed -1", "--seed"),
    "photons": (SIMULATE + " --photons 0", "--photons"),
    "folder in use": (changed(SIMULATE, "new", "sim"), "not empty"),
    "folder a file": (changed(SIMULATE, "new", "pose.json"), "is a file"),
    "truth missing": (changed(EVALUATE, "truth_000", "truth_099"), "truth_099"),
    "truth of two views": (changed(EVALUATE, "sim/truth_000.json", "two.json"), "2"),
    "points of the wrong shape": (EVALUATE + " --points {0}/carm.json", "points"),
    "point of two numbers": (EVALUATE + " --points {0}/points.json", "3 numbers"),
    "export's ending": (EXPORT + " --to {0}/o.mat", "o.mat"),
    "export without C-arm": (EXPORT + " --to {0}/o.txt --matrix projection", "--carm"),
    "export of a projection as transform": (EXPORT + " --to {0}/o.h5 --matrix projection", ".txt"),
    "export without a result": (EXPORT + " --to {0}/o.tfm --matrix ctToWorld", "ctToWorld"),
    "export without frames": (EXPORT + " --to {0}/o.dcm", "--ct and --xray"),
    "export of a view too many": (EXPORT + " --to {0}/o.tfm --number 2", "no view 2"),
    "preset unknown": (changed(RENDER, "{0}/carm.json", "preset:none:10x10"), "'none'"),
    "preset without a size": (changed(RENDER, "{0}/carm.json", "preset:mini"), "preset:mini:ROWSxCOLUMNS"),
    "preset of a wrong size": (changed(RENDER, "{0}/carm.json", "preset:mini:big"), "'big'"),
    "doctor's file missing": ("doctor {0}/none.png", "none.png"),
    "doctor's file unknown": ("doctor {0}/junk.bin", "junk.bin"),
}


@pytest.fixture(scope="module")
def bad(files, tmp_path_factory):
    """The good files and, beside them, bad ones."""
    folder = tmp_path_factory.mktemp("bad") / "files"
    shutil.copytree(files, folder)
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((8, 9), np.int16)), str(folder / "2d.nrrd"))
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((8, 9), np.int16)), str(folder / "2d.nii.gz"))
    whole = gzip.decompress((folder / "ct.nii.gz").read_bytes())
    (folder / "truncated.nii").write_bytes(whole[: len(whole) // 2])
    (folder / "truncated.nii.gz").write_bytes((folder / "ct.nii.gz").read_bytes()[:20000])
    flat = bytearray(whole)
    flat[252:256] = np.array([0, 1], "<i2").tobytes()  # qform off, sform on
    flat[280:328] = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]], "<f4").tobytes()
    (folder / "flat.nii").write_bytes(flat)
    hole = np.zeros((4, 4, 4), np.float32)
    hole[1, 2, 3] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(hole), str(folder / "nan.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(72, dtype=np.uint8).reshape(8, 9)), str(folder / "small.png"))
    for name in ("empty", "folder.npy"):
        (folder / name).mkdir()
    (folder / "junk.bin").write_bytes(bytes(range(256)))
    pose = json.loads((folder / "pose.json").read_text())["cameraToRAS"]
    scaled = (np.array(pose) * [1.1, 1.1, 1.1, 1]).tolist()
    for name, data in {
        "list": [1, 2],
        "words": CARM.to_json() | {"imageSize": "large"},
        "scaled": {"cameraToRAS": scaled},
        "3x3": {"cameraToRAS": np.eye(3).tolist()},
        "two": {"views": [{"cameraToRAS": pose}] * 2, "center": [0, 0, 0]},
        "points": {"points": [[1, 2]]},
        "landmarks": {"landmarks": [{"ras": [1, 2, 3], "pixel": [4, 5]}] * 2},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gives_one_line_and_status_2(bad, name, capfd):
    command, words = BAD[name]
    before = sorted(bad.rglob("*"))
    assert cli.main([part.format(bad) for part in command.split()]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 1 and words in lines[0]
    assert lines[0].startswith("Error: ") and lines[0].endswith((".", "?"))
    assert sorted(bad.rglob("*")) == before  # nothing half-made


def test_the_exit_status_is_that_of_the_process(bad):
    def start(command: str) -> subprocess.CompletedProcess:
        arguments = [sys.executable, "-m", "DiffPoseSlicerLib", *(part.format(bad) for part in command.split())]
        return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)

    done = start(changed(RENDER, "pose.json", "scaled.json"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    done = start(changed(RENDER, "pose.json", "scaled.json") + " --debug")
    assert done.returncode == 2 and "Traceback" in done.stderr
    done = start("--help")
    assert done.returncode == 0 and "pretrain" in done.stdout and done.stderr == ""
    done = start("--version")
    assert done.returncode == 0 and done.stdout.startswith("DiffPoseSlicer ")


def test_a_defect_of_ours_is_called_one(files, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise ZeroDivisionError("on\npurpose")

    monkeypatch.setattr("DiffPoseSlicerLib.rendering.renderer.render", fail)
    command = [part.format(files) for part in RENDER.split()]
    assert cli.main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "Defect" in line and "ZeroDivisionError: on purpose" in line and "--debug" in line
    assert cli.main([*command, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_no_defect(files, monkeypatch, capsys):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("DiffPoseSlicerLib.rendering.renderer.render", stop)
    assert cli.main([part.format(files) for part in RENDER.split()]) == 130
    assert capsys.readouterr().err.strip() == "Stopped."


def test_a_disc_that_refuses_to_be_written_is_named(files, monkeypatch, capsys):
    def full(path, *arguments, **options):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(np, "save", full)
    assert cli.main([part.format(files) for part in RENDER.split()]) == 2
    assert capsys.readouterr().err.strip() == "Error: No space left on device (out.npy)."


def test_what_was_rendered_is_read_back_where_it_was_stored_turned(files, small_ct, tmp_path):
    carm = CArm(1020.0, (72, 64), (4.2, 4.5), intensity="attenuation", mirrored=True, rotation=90)
    carm.write(tmp_path / "carm.json")
    command = ["render", files / "ct.nii.gz", "--carm", tmp_path / "carm.json", "--pose", files / "pose.json"]
    assert run(*command, "-o", tmp_path / "drr.npy") == 0
    assert np.load(tmp_path / "drr.npy").shape == (64, 72)
    seen = XrayImage.read(tmp_path / "drr.npy", carm).pixels
    np.testing.assert_allclose(seen, render(small_ct, carm, Pose.read(files / "pose.json")), atol=1e-5)


def test_points_files_are_checked(tmp_path):
    for content in ({"points": []}, {"points": "x"}, {"markups": [{"controlPoints": []}]}, {"markups": []}):
        (tmp_path / "p.json").write_text(json.dumps(content))
        with pytest.raises(InputError):
            read_points(tmp_path / "p.json")


def test_the_ct_that_commands_read_is_the_one_given(files, small_ct):
    assert CTVolume.read(files / "ct.nii.gz").fingerprint == small_ct.fingerprint
