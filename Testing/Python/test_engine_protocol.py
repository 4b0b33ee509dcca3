"""Lines between client and worker, and arrays beside them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from DiffPoseSlicerLib.engine import protocol
from DiffPoseSlicerLib.engine.arrays import FOLDER_PREFIX, ArrayFolder
from DiffPoseSlicerLib.engine.protocol import Error, Progress, ProtocolError, Request, Result
from DiffPoseSlicerLib.errors import InputError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
OBJECT = st.dictionaries(st.text(), JSON, max_size=4)


@given(st.integers(0), st.sampled_from(protocol.METHODS), OBJECT)
def test_requests_survive_the_wire(id, method, params):
    line = protocol.encode(Request(id, method, params))
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert protocol.decode_request(line) == Request(id, method, params)


@given(st.integers(0), OBJECT, st.text())
def test_replies_survive_the_wire(id, data, message):
    for reply in (Progress(id, data), Result(id, data), Error(id, "defect", message), Error(None, "input", message)):
        line = protocol.encode(reply)
        assert line.count(b"\n") == 1
        assert protocol.decode_reply(line) == reply


@pytest.mark.parametrize(
    ("line", "id"),
    [
        (b"", None),
        (b"hello\n", None),
        (b"[]\n", None),
        (b'{"method": "hello"}\n', None),
        (b'{"id": true, "method": "hello"}\n', None),
        (b'{"id": "1", "method": "hello"}\n', None),
        (b'{"id": 3, "method": "format"}\n', 3),
        (b'{"id": 3}\n', 3),
        (b'{"id": 3, "method": "render", "params": [1]}\n', 3),
        (b"\xff\xfe\n", None),
        (b"[" * 100000 + b"\n", None),
    ],
)
def test_a_line_that_is_no_request_is_refused(line, id):
    with pytest.raises(ProtocolError) as caught:
        protocol.decode_request(line)
    assert caught.value.id == id


@pytest.mark.parametrize("line", [b"Warp 1.19 initialized\n", b'{"id": 1}\n', b'{"id": 1, "event": "x", "data": {}}\n'])
def test_a_line_that_is_no_reply_is_refused(line):
    with pytest.raises(ProtocolError):
        protocol.decode_reply(line)


def test_numbers_of_numpy_travel_and_what_is_not_finite_becomes_null():
    line = protocol.encode(Result(1, {"a": np.float32(0.5), "b": [np.int64(3), float("nan")], "c": np.bool_(True)}))
    assert json.loads(line)["result"] == {"a": 0.5, "b": [3, None], "c": True}
    with pytest.raises(TypeError, match="ndarray"):
        protocol.encode(Result(1, {"a": np.zeros(3)}))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / (FOLDER_PREFIX + "test")
    path.mkdir()
    return path


def test_arrays_travel_as_files_and_leave_none_behind(folder):
    sender, receiver = ArrayFolder(folder, "c"), ArrayFolder(folder, "w")
    image = np.arange(6, dtype=np.float32).reshape(2, 3)
    made: list = []
    packed = sender.pack({"xrays": [{"pixels": image}], "n": 3}, made)
    assert made == [packed["xrays"][0]["pixels"]]
    received = receiver.unpack(json.loads(json.dumps(packed)))
    assert received["n"] == 3
    np.testing.assert_array_equal(received["xrays"][0]["pixels"], image)
    assert received["xrays"][0]["pixels"].dtype == np.float32
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../secret.npy", "/etc/secret.npy", "a/b.npy", "c.txt", ".npy", "a\\b.npy", "C:x.npy", 7]
)
def test_array_names_never_lead_out_of_the_folder(folder, name):
    with pytest.raises(InputError):
        ArrayFolder(folder, "w").load({"npy": name})


def test_damaged_arrays_are_refused_and_no_pickle_is_loaded(folder):
    arrays = ArrayFolder(folder, "w")
    np.save(folder / "p.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (folder / "d.npy").write_bytes(b"\x93NUMPY")
    for name in ("p.npy", "d.npy", "missing.npy"):
        with pytest.raises(InputError, match=name):
            arrays.load({"npy": name})


def test_only_a_folder_of_ours_is_emptied(folder, tmp_path):
    for path in (folder, tmp_path):
        ArrayFolder(path, "c").save(np.zeros(2))
        ArrayFolder(path, "c").clear()
    assert not folder.exists()
    assert len(list(tmp_path.glob("*.npy"))) == 1
