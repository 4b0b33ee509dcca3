"""A pretraining job as a folder: orders, refusals, and what it survives."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="pretraining needs torch, which is not installed here")

from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.pretraining import checkpoint, disk
from DiffPoseSlicerLib.pretraining.job import (
    Job,
    is_running,
    read_progress,
    read_status,
    request_pause,
    request_resume,
    request_stop,
    run_job,
    start_detached,
)
from DiffPoseSlicerLib.pretraining.model import PoseModel
from DiffPoseSlicerLib.pretraining.reporter import Reporter
from DiffPoseSlicerLib.pretraining.settings import preset
from test_pretraining import CARM, phantom, task


def order(folder: Path, ct: CTVolume | None = None, **changes) -> Job:
    ct = ct or phantom()
    settings = preset("tiny", **({"seconds": 60.0, "most_steps": 6} | changes))
    return Job.create(folder, ct, task(ct), settings, preset="tiny", seed=1, device="cpu")


def wait_for(condition, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


# Orders --------------------------------------------------------------------------------------------------------------


def test_a_job_is_read_back_as_it_was_ordered(tmp_path):
    ct = phantom()
    made = order(tmp_path / "job", ct)
    found = Job.open(tmp_path / "job")
    assert (found.task, found.settings, found.seed, found.device) == (made.task, made.settings, 1, "cpu")
    assert found.ct().fingerprint == ct.fingerprint
    assert read_status(found.folder) == {"state": "new"} and read_progress(found.folder) == []
    text = (tmp_path / "job" / "job.json").read_text()
    assert str(tmp_path) not in text


def test_watching_a_job_imports_no_torch(tmp_path):
    order(tmp_path / "job")
    code = (
        "import sys; from DiffPoseSlicerLib.pretraining.job import read_status, is_running\n"
        "from DiffPoseSlicerLib.pretraining.pretrain import make_job\n"
        "print(read_status(sys.argv[1])['state'], is_running(sys.argv[1]), {'torch', 'warp'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "job")], capture_output=True, text=True)
    assert done.stdout.split() == ["new", "False", "set()"], done.stderr


def test_another_ct_task_or_network_in_the_same_folder_is_refused(tmp_path):
    ct = phantom()
    job = order(tmp_path / "job", ct)
    hu = ct.hu.copy()
    hu[20, 20, 20] += 1
    with pytest.raises(InputError, match="made for another CT"):
        order(job.folder, CTVolume.from_array(hu, ct.affine))
    with pytest.raises(InputError, match="another rotation"):
        Job.create(job.folder, ct, task(ct, rotation=(25, 20, 20)), job.settings)
    with pytest.raises(InputError, match="another network"):
        order(job.folder, ct, width=24)
    assert order(job.folder, ct).settings == job.settings


def test_more_time_extends_a_job_and_less_changes_nothing(tmp_path):
    ct = phantom()
    order(tmp_path / "job", ct)
    assert order(tmp_path / "job", ct, seconds=90.0).settings.seconds == 90
    assert order(tmp_path / "job", ct, seconds=30.0).settings.seconds == 90
    Job.open(tmp_path / "job").extend(10)
    assert Job.open(tmp_path / "job").settings.seconds == 100


def test_an_exchanged_or_lost_ct_file_is_noticed(tmp_path):
    ct = phantom()
    job = order(tmp_path / "job", ct)
    hu = ct.hu.copy()
    hu[0, 0, 0] += 5
    np.save(job.folder / "ct.npy", hu)
    with pytest.raises(InputError, match="is not the CT the job was made for"):
        run_job(job.folder)
    assert read_status(job.folder)["state"] == "failed"
    (job.folder / "ct.npy").unlink()
    with pytest.raises(InputError, match="missing or damaged"):
        run_job(job.folder)
    order(job.folder, ct)  # given the CT again, the folder is whole again
    assert Job.open(job.folder).ct().fingerprint == ct.fingerprint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 99}, "another version of DiffPoseSlicer .format 99"),
        ({"task": {}}, "not a pretraining job's"),
        ({"settings": 5}, "not a pretraining job's"),
    ],
)
def test_a_job_of_another_version_or_shape_is_refused_in_words(tmp_path, change, words):
    job = order(tmp_path / "job")
    data = json.loads((job.folder / "job.json").read_text()) | change
    (job.folder / "job.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=words):
        Job.open(job.folder)


def test_a_folder_without_a_job_is_refused(tmp_path):
    with pytest.raises(InputError, match="no pretraining job"):
        run_job(tmp_path)
    with pytest.raises(InputError, match="no pretraining job"):
        PoseModel.load(tmp_path)


def test_a_torn_line_of_progress_is_left_out_and_ended(tmp_path):
    job = order(tmp_path / "job", most_steps=2)
    (job.folder / "progress.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_progress(job.folder) == [{"step": 1}]
    run_job(job.folder)
    steps = [report["step"] for report in read_progress(job.folder)]
    assert steps[0] == 1 and steps[-1] == 2 and len(steps) >= 3


# Checkpoints ---------------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_version_and_a_damaged_one_are_refused_in_words(tmp_path, monkeypatch):
    job = order(tmp_path / "job", most_steps=2)
    run_job(job.folder)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 1)
        with pytest.raises(InputError, match="a newer version of DiffPoseSlicer .format 3, this one reads 1"):
            run_job(job.folder)
        patch.setattr(checkpoint, "FORMAT", 4)
        with pytest.raises(InputError, match="an older version of DiffPoseSlicer .format 3, this one reads 4"):
            run_job(job.folder)
    path = job.folder / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="checkpoint.safetensors is damaged"):
        run_job(job.folder)


def test_a_checkpoint_of_the_first_version_is_gone_on_with(tmp_path):
    import torch

    job = order(tmp_path / "job", most_steps=2)
    run_job(job.folder)
    for name in ("checkpoint.safetensors", "model.safetensors"):
        tensors, data = checkpoint.load_checkpoint(job.folder / name)
        first = {k: v for k, v in data.items() if k not in ("trials", "trialSeconds", "passed", "budget")}
        old = {"format": "1", "data": json.dumps(first)}
        # Its optimiser kept AdamW's averages for every parameter.
        tensors = {k: v for k, v in tensors.items() if not k.startswith("optimiser.")}
        weights = [v for k, v in tensors.items() if k.startswith("network.") and k != "network.ranges"]
        for index, weight in enumerate(weights):
            tensors |= {f"optimiser.{index}.exp_avg": torch.zeros_like(weight)}
        (job.folder / name).write_bytes(checkpoint.save(tensors, old))
    assert PoseModel.load(job.folder).data["step"] == 2
    order_ = json.loads((job.folder / "job.json").read_text())
    # Nor did orders know of ending early.
    for key in ("target", "target_mm", "trial_cases", "similarity_from", "optimiser"):
        del order_["settings"][key]
    order_["settings"]["most_steps"] = 5
    (job.folder / "job.json").write_text(json.dumps(order_))
    assert run_job(job.folder)["step"] == 5
    assert "Going on from step 2" in (job.folder / "log.txt").read_text()


def test_a_full_disk_is_said_keeps_the_last_checkpoint_and_does_not_stop_the_training(tmp_path, monkeypatch):
    job = order(tmp_path / "job", most_steps=3)
    run_job(job.folder)
    before = (job.folder / "checkpoint.safetensors").read_bytes()
    job.settings = preset("tiny", seconds=60.0, most_steps=6)
    job._data["settings"] = job.settings.to_json()
    job._write()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", full)
        with pytest.raises(InputError, match="the disk is full; free some space"):
            run_job(job.folder)
    status = read_status(job.folder)
    assert status["state"] == "failed" and "disk is full" in status["message"]
    assert status["step"] == 6, "the training went on to its end"
    assert (job.folder / "checkpoint.safetensors").read_bytes() == before
    assert not list(job.folder.glob("*.part"))
    assert run_job(job.folder)["state"] == "done", "with space again it goes on from the last checkpoint"
    assert read_status(job.folder)["message"] == ""


def test_the_heartbeat_goes_on_where_it_lies_when_no_new_file_fits(tmp_path, monkeypatch):
    reporter = Reporter(tmp_path)
    reporter.status(force=True, state="running", step=1)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.Path, "write_text", full)
    reporter.status(force=True, step=123456, message="the disk is full")
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["step"] == 123456 and status["message"] == "the disk is full"


def test_replacing_a_file_is_tried_again_while_a_reader_blocks_it(tmp_path, monkeypatch):
    tries = []
    real = os.replace

    def blocked(source, target):
        tries.append(source)
        if len(tries) < 3:
            raise PermissionError(errno.EACCES, "in use")
        real(source, target)

    monkeypatch.setattr(disk.os, "replace", blocked)
    disk.write_atomically(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new" and len(tries) == 3


# A GPU's memory ------------------------------------------------------------------------------------------------------


def test_a_batch_that_does_not_fit_is_worked_through_in_parts_and_gives_the_same_gradients(tmp_path, monkeypatch):
    import torch

    from DiffPoseSlicerLib.pretraining.network import PoseNetwork

    job = order(tmp_path / "job", most_steps=2)
    run_and_save_gradients(str(job.folder), str(tmp_path / "whole.pt"))
    small = order(tmp_path / "small", most_steps=2)
    forward, sizes = PoseNetwork.forward, []

    def cramped(self, images):
        if self.training and len(images) > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        sizes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(PoseNetwork, "forward", cramped)
    run_and_save_gradients(str(small.folder), str(tmp_path / "parts.pt"))
    assert sizes[:4] == [4, 4, 4, 4], "batches of 16"
    log = (small.folder / "log.txt").read_text()
    assert "worked through in 2 parts" in log and "worked through in 4 parts" in log and "8 parts" not in log
    whole, parts = (torch.load(tmp_path / name, weights_only=True) for name in ("whole.pt", "parts.pt"))
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()) + 1e-7)
    assert read_status(small.folder)["state"] == "done"


def test_a_gpu_that_holds_not_even_one_image_leaves_the_work_to_the_cpu(tmp_path, monkeypatch):
    import torch

    from DiffPoseSlicerLib.pretraining.processes import Processes
    from DiffPoseSlicerLib.pretraining.trainer import Trainer

    job = order(tmp_path / "job", most_steps=3)
    real, joined = Trainer._gradients, []
    join = Processes.join.__func__

    def full_at_first(self, batch):
        if len(joined) == 1 and self.step == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return real(self, batch)

    monkeypatch.setattr(Trainer, "_gradients", full_at_first)
    monkeypatch.setattr(Processes, "join", classmethod(lambda cls, device: joined.append(device) or join(cls, device)))
    assert run_job(job.folder)["state"] == "done"
    assert joined == ["cpu", "cpu"] and PoseModel.load(job.folder).data["step"] == 3
    log = (job.folder / "log.txt").read_text()
    assert "worked through in 16 parts" in log and "going on on the CPU" in log


# Processes -----------------------------------------------------------------------------------------------------------


def test_a_second_process_on_the_folder_is_refused_until_the_first_is_dead(tmp_path):
    job = order(tmp_path / "job", most_steps=1)
    code = (
        "import sys, time; from DiffPoseSlicerLib.pretraining.disk import FolderLock\n"
        "lock = FolderLock(sys.argv[1]); print(lock.acquire(), flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(job.folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline().strip() == "True"
        (job.folder / "status.json").write_text(json.dumps({"state": "running", "pid": holder.pid}))
        assert is_running(job.folder) and read_status(job.folder)["state"] == "running"
        with pytest.raises(InputError, match=f"Another process .number {holder.pid}. already works"):
            run_job(job.folder)
        with pytest.raises(InputError, match="already works"):
            start_detached(job.folder)
        assert read_status(job.folder)["pid"] == holder.pid, "the refused one wrote nothing"
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert not is_running(job.folder) and read_status(job.folder)["state"] == "interrupted"
    assert run_job(job.folder)["state"] == "done"


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX's")
def test_a_detached_job_survives_kill_9_pauses_goes_on_and_stops(tmp_path):
    job = order(tmp_path / "job", seconds=600.0, most_steps=0)
    pid = start_detached(job.folder)
    wait_for(lambda: (job.folder / "checkpoint.safetensors").exists())
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_running(job.folder))
    assert read_status(job.folder)["state"] == "interrupted"
    saved = PoseModel.load(job.folder).data
    assert saved["step"] > 0

    start_detached(job.folder)
    wait_for(lambda: read_status(job.folder).get("step", 0) > saved["step"] and is_running(job.folder))
    request_pause(job.folder)
    wait_for(lambda: read_status(job.folder)["state"] == "paused")
    paused = read_status(job.folder)
    time.sleep(1.5)
    later = read_status(job.folder)
    assert later["step"] == paused["step"] and later["heartbeat"] > paused["heartbeat"]
    request_resume(job.folder)
    wait_for(lambda: read_status(job.folder)["step"] > paused["step"])
    request_stop(job.folder)
    wait_for(lambda: not is_running(job.folder))
    status = read_status(job.folder)
    assert status["state"] == "stopped" and status["step"] > paused["step"]
    # Neither the kill nor the pause cost training time: the clock went on from the checkpoint's.
    assert saved["seconds"] < PoseModel.load(job.folder).data["seconds"] < 600
    log = (job.folder / "log.txt").read_text()
    assert f"Going on from step {saved['step']}" in log and "Paused" in log and "Stopped" in log


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX's")
def test_kills_at_any_instant_lose_no_more_than_the_last_seconds(tmp_path):
    """Four random kills, from the first instant on; `bench kills` does twenty of a real job."""
    job = order(tmp_path / "job", seconds=600.0, most_steps=0)
    rng = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    kept = 0.0
    for number in range(4):
        pid = start_detached(job.folder)
        # The first dies while it starts; the others when they have done something, the last when something is kept.
        if number:
            wait_for(lambda: read_status(job.folder).get("state") == "running")
        if number == 3:
            wait_for((job.folder / "checkpoint.safetensors").exists)
        time.sleep(rng.uniform(0, 2.0))
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_running(job.folder))
        said = read_status(job.folder)
        assert said["state"] in ("interrupted", "new")
        saved = PoseModel.load(job.folder).data["seconds"] if (job.folder / "checkpoint.safetensors").exists() else 0.0
        assert kept <= saved and said.get("seconds", 0.0) - saved < 30, "a busy machine's few checkpoints"
        assert all("step" in report for report in read_progress(job.folder))
        kept = saved
    assert kept > 0


def run_and_save_gradients(folder: str, out: str) -> None:
    """Run a job, and save what its first batch asks of the network, from this process or from all of them together."""
    import torch

    from DiffPoseSlicerLib.pretraining.trainer import Trainer

    real = Trainer.run

    def run(self, cancel=None):
        self.gradients(self.source.batch(0))
        if self.processes.leader:
            torch.save([p.grad.clone() for p in self.network.parameters()], out)
        return real(self, cancel)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "run", run)
        run_job(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="torch for Windows comes without libuv's rendezvous")
def test_two_processes_give_the_gradients_of_one_and_share_a_job(tmp_path):
    import torch

    script = tmp_path / "both.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_job import run_and_save_gradients\n"
        "run_and_save_gradients(*sys.argv[2:])\n"
    )
    # Two processes bring twice the batch.
    alone, job = order(tmp_path / "alone", most_steps=1, batch=32), order(tmp_path / "job", most_steps=2, batch=16)
    run_and_save_gradients(str(alone.folder), str(tmp_path / "one.pt"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    command += [str(Path(__file__).parent), str(job.folder), str(tmp_path / "two.pt")]

    def in_two() -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    def extend(steps: int) -> None:
        data = json.loads((job.folder / "job.json").read_text())
        data["settings"]["most_steps"] = steps
        (job.folder / "job.json").write_text(json.dumps(data))

    in_two()
    found = [torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt")]
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one, two, rtol=1e-3, atol=1e-4 * float(one.abs().max()) + 1e-7)
    assert read_status(job.folder)["state"] == "done" and read_status(job.folder)["step"] == 2
    assert "in 2 processes" in (job.folder / "log.txt").read_text()
    # One process goes on with what two began, and two with what one left.
    extend(4)
    assert run_job(job.folder)["step"] == 4
    extend(6)
    in_two()
    assert read_status(job.folder)["state"] == "done" and read_status(job.folder)["step"] == 6
    assert "Going on from step 4" in (job.folder / "log.txt").read_text()


def test_the_command_line_and_the_folder_agree(tmp_path):
    ct = phantom()
    ct.write(tmp_path / "ct.nii.gz")
    CARM.write(tmp_path / "carm.json")
    order(tmp_path / "job", CTVolume.read(tmp_path / "ct.nii.gz"), most_steps=1)
    done = subprocess.run(
        [sys.executable, "-m", "DiffPoseSlicerLib", "pretrain", "--job", str(tmp_path / "job")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert PoseModel.load(tmp_path / "job").data["step"] == 1
    done = subprocess.run(
        [sys.executable, "-m", "DiffPoseSlicerLib", "pretrain", "--job", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 2 and "no pretraining job" in done.stderr and "Traceback" not in done.stderr


def test_a_request_to_stop_made_while_the_job_starts_is_honoured_once(tmp_path):
    job = order(tmp_path / "job", most_steps=3)
    request_stop(job.folder)
    assert run_job(job.folder)["state"] == "stopped"
    assert run_job(job.folder)["state"] == "done"
