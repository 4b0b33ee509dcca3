"""The engine: a worker process that computes, and survives whatever is sent to it."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np
import pytest

from DiffPoseSlicerLib import CArm, CTVolume, Pose, render
from DiffPoseSlicerLib.engine.client import EngineClient, EngineError, EngineStopped
from DiffPoseSlicerLib.engine.methods import Engine, Recent
from DiffPoseSlicerLib.engine.protocol import VERSION, Error, Request, Result, decode_reply, encode
from DiffPoseSlicerLib.engine.transport import SubprocessTransport
from DiffPoseSlicerLib.errors import Cancelled, InputError

CARM = CArm(1020.0, (64, 56), (4.7, 5.0), principal_point=(25.0, 33.5), intensity="attenuation")
SECONDS = 60


@pytest.fixture(scope="module")
def client():
    with EngineClient() as client:
        yield client


@pytest.fixture(scope="module")
def pose(small_ct):
    return Pose.from_view("AP", small_ct, CARM, lao_rao=8, cran_caud=-5)


@pytest.fixture(scope="module")
def xray(small_ct, pose):
    return render(small_ct, CARM, pose)


def load(client: EngineClient, ct: CTVolume) -> str:
    slabs = np.array_split(ct.hu, 3)
    return client.call("load_ct", {"slabs": slabs, "affine": ct.affine.tolist(), "key": ct.fingerprint})["ct"]


def registration(ct: str, xray, start: Pose) -> dict:
    return {"ct": ct, "xrays": [{"pixels": xray, "carm": CARM.to_json()}], "start": {"poses": start.to_json()}}


def wait_for_end(client: EngineClient) -> None:
    """Until the operating system has the worker's exit."""
    transport = client._transport
    until = time.monotonic() + SECONDS
    while transport.exit_status() is None:
        assert time.monotonic() < until
        transport.wait(0.1)
        transport.read()


def test_a_ct_in_memory_renders_in_the_engine_as_it_does_here(client, small_ct, pose, xray):
    params = {"ct": load(client, small_ct), "carm": CARM.to_json(), "pose": pose.to_json()}
    np.testing.assert_array_equal(client.call("render", params)["image"], xray)
    result = client.call("render", params | {"jacobian": True})
    _, jacobian = render(small_ct, CARM, pose, jacobian=True)
    np.testing.assert_array_equal(result["jacobian"], jacobian)


def test_a_registration_streams_every_iteration_and_finds_the_pose(client, small_ct, pose, xray):
    ct = load(client, small_ct)
    start = Pose.about(pose.camera_to_ras[:3, :3], small_ct.center, CARM, [0.05, -0.04, 0.06, 6, -5, 12])
    steps: list[dict] = []
    result = client.call("register", registration(ct, xray, start), on_progress=steps.append)
    assert [step["iteration"] for step in steps] == list(range(1, result["iterations"] + 1))
    assert all(Pose(np.array(step["cameraToRAS"])) and 0 < step["similarity"] <= 1 for step in steps)
    found = Pose(np.array(result["views"][0]["cameraToRAS"]))
    shift = found.ras_to_camera @ [*small_ct.center, 1] - pose.ras_to_camera @ [*small_ct.center, 1]
    assert np.linalg.norm(shift) < 1.0
    assert list(client.arrays.folder.glob("*.npy")) and not client.busy  # the CT's slabs are kept, nothing else waits


def test_an_image_that_seems_mirrored_is_said(client, small_ct, pose, xray):
    request = registration(load(client, small_ct), np.ascontiguousarray(xray[:, ::-1]), pose)
    request["xrays"][0]["carm"]["intensity"] = "attenuation"
    (warning,) = client.call("register", request)["warnings"]
    assert "mirrored left to right" in warning and "register it as mirrored" in warning


def test_a_search_is_bounded_by_its_view_and_ranges(client, small_ct, pose, xray):
    request = registration(load(client, small_ct), xray, pose) | {"start": "search", "view": "AP", "lao_rao": 5}
    result = client.call("register", request | {"rotation": [10, 10, 10], "translation": [5, 5, 5], "budget": 30})
    assert result["start"] == "search"
    found = Pose(np.array(result["views"][0]["cameraToRAS"]))
    assert np.linalg.norm((found.camera_to_ras - pose.camera_to_ras)[:3, 3]) < 3


def test_the_machine_is_described(client):
    lines = client.call("doctor")["lines"]
    assert any(line.startswith("renderer") for line in lines)


def test_requests_are_answered_in_order_without_blocking(client):
    answers: list[str] = []
    for name in ("first", "second"):
        client.submit("cancel", on_result=lambda result, name=name: answers.append(name))
    assert answers == []
    until = time.monotonic() + SECONDS
    while client.poll():
        assert time.monotonic() < until
        time.sleep(0.01)
    assert answers == ["first", "second"]


@pytest.mark.parametrize(
    ("method", "params", "words"),
    [
        ("load_ct", {"path": "no such file.nii"}, "does not exist"),
        ("load_ct", {}, "'path'"),
        ("load_ct", {"slabs": [{"npy": "../x.npy"}], "affine": []}, "array"),
        ("load_ct", {"slabs": [np.zeros((2, 3, 4), np.int16)], "affine": [[1]]}, "affine"),
        ("load_ct", {"slabs": [np.zeros((2, 3, 4)), np.zeros((2, 3, 5))], "affine": np.eye(4).tolist()}, "slabs"),
        ("render", {"ct": "unknown", "carm": {}, "pose": {}}, "not loaded"),
        ("register", {"ct": 5}, "'ct'"),
        ("hello", {"version": VERSION + 1}, "version"),
        ("hello", {"version": VERSION, "folder": "/no/such/folder"}, "folder"),
    ],
)
def test_bad_requests_get_an_answer_and_the_engine_stays(client, method, params, words):
    client.call("cancel")
    pid = client._transport.pid
    with pytest.raises(InputError, match=words):
        client.call(method, params)
    assert client.call("cancel") == {}
    assert client._transport.pid == pid


def test_bad_values_for_a_loaded_ct_are_input_errors(client, small_ct, pose, xray):
    good = registration(load(client, small_ct), xray, pose)
    wrong = [
        ({"xrays": []}, "xrays"),
        ({"xrays": [{"pixels": xray}]}, "geometry"),
        ({"xrays": [{"pixels": xray[:-1], "carm": CARM.to_json()}]}, "imageSize"),
        ({"start": {"poses": {"cameraToRAS": [[1, 0], [0, 1]]}}}, "4x4"),
        ({"start": {"model": "none"}}, "not loaded"),
        ({"start": 3}, "start"),
        ({"rotation": [1, 2]}, "rotation"),
        ({"center": "here"}, "center"),
        ({"lao_rao": "10"}, "lao_rao"),
        ({"budget": [1]}, "budget"),
        ({"view": 5}, "view"),
        ({"view": "FRONT"}, "FRONT"),
        ({"device": "cuda:99"}, "device"),
    ]
    for change, words in wrong:
        with pytest.raises(InputError, match=words):
            client.call("register", good | change)


def test_lines_that_are_no_requests_are_answered_too():
    transport = SubprocessTransport()
    transport.start()
    transport.write(b"what is this\n" + b'{"id": 4, "method": "explode"}\n' + b"\n" + encode(Request(5, "cancel")))
    data, until = b"", time.monotonic() + SECONDS
    while data.count(b"\n") < 4 and time.monotonic() < until:
        transport.wait(0.1)
        data += transport.read()
    transport.stop(5)
    first, second, third, fourth = (decode_reply(line) for line in data.splitlines())
    assert isinstance(first, Error) and first.id is None and first.kind == "input"
    assert isinstance(second, Error) and second.id == 4 and "explode" in second.message
    assert isinstance(third, Error)
    assert isinstance(fourth, Result) and fourth.id == 5


def test_a_cancelled_registration_stops_at_the_next_iteration(small_ct, pose, tmp_path):
    folder = tmp_path / "diffposeslicer-test"
    folder.mkdir()
    np.save(folder / "ct.npy", small_ct.hu)
    np.save(folder / "x.npy", render(small_ct, CARM, pose))
    engine, steps = Engine(), []
    never = {"on_progress": steps.append, "cancel": lambda: False}
    engine.handle("hello", {"version": VERSION, "folder": str(folder)}, **never)
    slabs = {"slabs": [{"npy": "ct.npy"}], "affine": small_ct.affine.tolist()}
    ct = engine.handle("load_ct", slabs, **never)["ct"]
    with pytest.raises(Cancelled):
        engine.handle(
            "register",
            registration(ct, {"npy": "x.npy"}, pose),
            on_progress=steps.append,
            cancel=lambda: len(steps) >= 3,
        )
    assert len(steps) == 3


def test_cancelling_through_the_pipe_leaves_the_engine_usable(client, small_ct, pose, xray):
    ct, steps, outcome = load(client, small_ct), [], []

    def stop(step):
        steps.append(step)
        client.cancel(id)

    id = client.submit("register", registration(ct, xray, pose), on_progress=stop, on_error=outcome.append)
    waiting = client.submit("register", registration(ct, xray, pose), on_error=outcome.append)
    client.cancel(waiting)  # before its turn has come
    pid, until = client._transport.pid, time.monotonic() + SECONDS
    while client.poll() and time.monotonic() < until:
        client._transport.wait(0.1)
    assert steps and [type(error) for error in outcome] == [Cancelled, Cancelled]
    assert client.call("cancel") == {} and client._transport.pid == pid


def test_an_exception_in_a_progress_callback_cancels_the_call(client, small_ct, pose, xray):
    def fail(step):
        raise KeyboardInterrupt

    ct = load(client, small_ct)
    with pytest.raises(KeyboardInterrupt):
        client.call("register", registration(ct, xray, pose), on_progress=fail)
    assert client.call("cancel") == {}


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is for POSIX")
def test_a_killed_worker_is_started_again_with_its_ct(client, small_ct, pose, xray):
    params = {"ct": load(client, small_ct), "carm": CARM.to_json(), "pose": pose.to_json()}
    pid = client._transport.pid
    os.kill(pid, signal.SIGKILL)
    wait_for_end(client)
    np.testing.assert_array_equal(client.call("render", params)["image"], xray)  # nobody sent the CT again
    assert client._transport.pid != pid


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is for POSIX")
def test_a_worker_killed_at_work_is_reported_once_and_started_again(client, small_ct, pose, xray):
    ct = load(client, small_ct)
    with pytest.raises(EngineStopped, match=r"stopped unexpectedly \(exit status -9\)") as caught:
        client.call(
            "register",
            registration(ct, xray, pose),
            on_progress=lambda step: os.kill(client._transport.pid, signal.SIGKILL),
        )
    assert "next request starts it again" in str(caught.value)
    assert client.call("register", registration(ct, xray, pose))["iterations"] > 0


FRAGILE = """
import os, sys
from DiffPoseSlicerLib.engine import methods, worker
read = methods.Engine._doctor
def fragile(self, params):
    return os.abort() if "bad" in params["path"] else read(self, params)
methods.Engine._doctor = fragile
sys.exit(worker.main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="exit statuses of signals are for POSIX")
def test_a_file_that_takes_the_worker_down_is_named_and_the_engine_is_back(tmp_path, small_ct):
    small_ct.write(tmp_path / "ct.nrrd")
    with EngineClient(SubprocessTransport(command=[sys.executable, "-c", FRAGILE])) as client:
        with pytest.raises(EngineStopped, match=r"\(exit status -6\) while it worked on bad\.dcm\. The next") as caught:
            client.call("doctor", {"path": tmp_path / "bad.dcm"})
        assert str(tmp_path) not in str(caught.value)
        assert client.call("doctor", {"path": tmp_path / "ct.nrrd"})["lines"][0] == "CT volume"


def test_an_interpreter_that_is_not_there_is_named_as_the_problem():
    with EngineClient(SubprocessTransport("/no/such/python")) as client:
        with pytest.raises(EngineStopped, match="could not be started"):
            client.call("cancel")


def test_a_worker_that_fails_at_once_tells_why():
    with EngineClient(SubprocessTransport(command=[sys.executable, "-c", "import no_such_package"])) as client:
        with pytest.raises(EngineStopped, match="exit status 1") as caught:
            client.call("cancel")
    assert "no_such_package" in caught.value.details


NOISY = """
import ctypes, os, sys
from DiffPoseSlicerLib.engine import methods, worker
def noisy(self, params):
    print("printed by Python")
    sys.__stdout__.write("written by Python\\n")
    os.write(1, b"written to the descriptor\\n")
    os.system("echo printed by a child")
    assert sys.stdin.read() == "" and os.read(0, 1) == b""
    if params.get("fail"):
        raise ZeroDivisionError("on purpose")
    return {"lines": ["fine"]}
methods.Engine._doctor = noisy
sys.exit(worker.main())
"""


def test_nothing_but_replies_comes_out_of_stdout():
    transport = SubprocessTransport(command=[sys.executable, "-c", NOISY])
    transport.start()
    transport.write(encode(Request(1, "doctor")) + encode(Request(2, "shutdown")))
    data, until = b"", time.monotonic() + SECONDS
    while transport.exit_status() is None and time.monotonic() < until:
        transport.wait(0.1)
        data += transport.read()
    log = transport.read_errors()
    transport.stop(5)
    assert [type(decode_reply(line)) for line in data.splitlines()] == [Result, Result]
    for words in (b"printed by Python", b"written by Python", b"written to the descriptor", b"printed by a child"):
        assert words in log


def test_a_defect_is_an_answer_with_the_log_beside_it():
    with EngineClient(SubprocessTransport(command=[sys.executable, "-c", NOISY])) as client:
        with pytest.raises(EngineError, match="ZeroDivisionError: on purpose") as caught:
            client.call("doctor", {"fail": True})
        assert not isinstance(caught.value, EngineStopped)
        assert "Traceback" in caught.value.details
        assert client.call("doctor")["lines"]


def test_the_worker_ends_when_its_client_is_gone_and_leaves_no_voxels(small_ct):
    client = EngineClient()
    load(client, small_ct)
    folder, process = client.arrays.folder, client._transport._process
    process.stdin.close()
    assert process.wait(SECONDS) == 0
    assert not folder.exists()
    client.close()


def test_a_worker_at_work_ends_when_its_client_is_gone(small_ct, pose, xray):
    client, steps = EngineClient(), []
    ct = load(client, small_ct)
    client.submit("register", registration(ct, xray, pose), on_progress=steps.append)
    until = time.monotonic() + SECONDS
    while not steps and time.monotonic() < until:
        client._transport.wait(0.1)
        client.poll()
    process = client._transport._process
    process.stdin.close()
    assert process.wait(SECONDS) == 0  # at its next iteration; status 1 would be the emergency exit
    client.close()


def test_closing_tells_those_who_wait():
    client, outcome = EngineClient(), []
    client.submit("cancel", on_error=outcome.append)
    folder = client.arrays.folder
    client.close()
    assert [type(error) for error in outcome] == [Cancelled]
    assert not folder.exists()


def test_a_ct_is_read_once(small_ct, tmp_path, monkeypatch):
    path = tmp_path / "ct.nii.gz"
    small_ct.write(path)
    engine = Engine()
    first = engine._load_ct({"path": str(path)})
    monkeypatch.setattr(CTVolume, "read", lambda path: pytest.fail("read again"))
    assert engine._load_ct({"path": str(path)}) == first
    monkeypatch.undo()
    os.utime(path, ns=(1, 1))  # changed, for all one knows: read, and recognised by its content
    assert engine._load_ct({"path": str(path)}) == first
    CTVolume.from_array(small_ct.hu[:-1], small_ct.affine).write(path)
    assert engine._load_ct({"path": str(path)})["ct"] != first["ct"]


def test_the_least_recently_used_is_let_go():
    recent: Recent[int] = Recent(2)
    recent.put("a", 1)
    recent.put("b", 2)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert recent.keys() == ["a", "c"] and recent.get("b") is None


def test_a_ct_let_go_by_the_worker_comes_back_when_it_is_needed(client, small_ct, pose, xray):
    params = {"ct": load(client, small_ct), "carm": CARM.to_json(), "pose": pose.to_json()}
    for take in (1, 2):
        load(client, CTVolume.from_array(small_ct.hu[take:], small_ct.affine))
    assert params["ct"] not in client._held
    np.testing.assert_array_equal(client.call("render", params)["image"], xray)
