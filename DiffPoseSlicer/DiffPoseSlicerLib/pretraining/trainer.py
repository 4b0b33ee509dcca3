"""The training loop: renders, learns, validates and saves until its time is used up."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .checkpoint import load_checkpoint, save_checkpoint
from .cores import Cores
from .data import Prefetch, Source
from .disk import reason
from .job import Job, read_request
from .losses import PoseLoss, camera_to_ras, ncc
from .model import PoseModel
from .network import NetworkConfig, PoseNetwork
from .optimiser import Muon
from .processes import Processes
from .reporter import Reporter
from .settings import for_processes
from .trials import SUCCESS_MM, Goal, Trials

CHECKPOINT, MODEL, START = "checkpoint.safetensors", "model.safetensors", "start.safetensors"
# Seconds between reports, between validations (each about a tenth of a second), and between checkpoints.
REPORT_S, VALIDATE_S, SAVE_S = 2.0, 6.0, 5.0
VALIDATION_BATCHES = 4
# Trials of the whole pipeline begin between these fractions of the time (a later one would cost more time than it could
# save) and all of them together take up to this share of it.
FIRST_TRIAL, LAST_TRIAL, TRIAL_SHARE = 0.25, 0.6, 0.12
# A model that passed one is finished in this fraction of the time: the rate falls to zero, which is worth a good deal.
COOL_DOWN = 0.12


def train(job: Job, reporter: Reporter, cancel: Callable[[], bool] | None = None) -> bool:
    """Train a job until done or stopped; everything it says goes to the reporter. Whether it is done.

    Raises:
        InputError: the CT or the checkpoint does not fit the job, or the disk is full at the end.
    """
    began = time.monotonic()
    with Processes.join(job.device) as processes:
        try:
            return _run(job, reporter, processes, began, cancel)
        except torch.cuda.OutOfMemoryError:
            if processes.world > 1:
                raise InputError(
                    "The GPU's memory does not hold the training; run it in one process, which then goes on on the CPU."
                ) from None
    reporter.log("The GPU's memory does not hold the training: going on on the CPU, which takes longer.")
    with Processes.join("cpu") as processes:
        return _run(job, reporter, processes, time.monotonic(), cancel)


def _run(job: Job, reporter: Reporter, processes: Processes, began: float, cancel: Callable[[], bool] | None) -> bool:
    trainer = Trainer(job, reporter, processes)
    trainer.clock(began)
    return trainer.run(cancel)


class Trainer:
    """Network, its average, optimiser and time of one job; see :func:`train`."""

    def __init__(self, job: Job, reporter: Reporter, processes: Processes) -> None:
        self.job, self.reporter, self.processes = job, reporter, processes
        self.settings = settings = for_processes(job.settings, processes.world)
        self.device = processes.device
        self.cores = Cores(processes.thread_counts())
        self.ct = job.ct()
        self.source = Source(self.ct, job.task, settings, job.seed, self.device, processes.rank, processes.world)
        torch.manual_seed(job.seed)
        rows, columns = self.source.carm.image_size
        self.config = NetworkConfig(rows, columns, settings.width, settings.depths, settings.hidden, settings.stem)
        network = PoseNetwork(self.config, job.task.ranges)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimiser = Muon(self.network.parameters(), settings.rate, settings.decay, settings.optimiser)
        self.loss = PoseLoss(settings.loss, job.task.carm.source_to_detector, settings.depth_weight, self.device)
        self.step, self.seconds, self._images = 0, 0.0, 0
        self._chunks = 1
        self._tuning = False
        # Seconds after which a trial of the whole pipeline was passed; trials so far and the seconds they took.
        self._passed: float | None = None
        self._trial_count, self._trial_seconds = 0, 0.0
        self._trials: Trials | None = None
        self._validated = -VALIDATE_S
        self._validation: dict[str, float] = {}
        self._success: dict[str, float] = {}
        self._smooth_loss: float | None = None
        self._began = time.monotonic()
        if (job.folder / CHECKPOINT).exists():
            self._load()
        elif (job.folder / START).exists():
            self._warm_start()

    def clock(self, began: float) -> None:
        """Count the time since `began` (time.monotonic) as used for training, on top of what a checkpoint says."""
        self._began = began - self.seconds

    def run(self, cancel: Callable[[], bool] | None = None) -> bool:
        """Train until the time is used up or somebody asks to stop; whether it is done."""
        settings, report = self.settings, self.reporter
        if self.step and self._fraction() < 1:
            report.log(f"Going on from step {self.step} after {self.seconds:.0f} s of training.")
        elif not self.step:
            report.log(
                f"Training for {settings.seconds:.0f} s on {self.device}"
                f"{f' in {self.processes.world} processes' if self.processes.world > 1 else ''}."
            )
        next_report = next_save = time.monotonic()
        next_save += 1
        images_then, time_then = 0, time.monotonic()
        validation = [self.source.batch(-1 - n) for n in range(VALIDATION_BATCHES)]
        with Prefetch(self.source, self.step) as batches:
            while True:
                self.seconds = time.monotonic() - self._began
                fraction = min(self._fraction(), 1.0)
                if settings.most_steps and self.step >= settings.most_steps:
                    fraction = 1.0
                request = "stop" if cancel and cancel() else read_request(self.job.folder)
                if not request and self._trial_due(fraction):
                    request = "trial"
                fraction, request = self.processes.agree(fraction, request)
                if request == "pause" and fraction < 1:
                    self._pause(cancel)
                    self.cores.interrupted()
                    time_then = time.monotonic()
                    continue
                if fraction >= 1 or request == "stop":
                    break
                if request == "trial":
                    if self.processes.leader:
                        self._try(validation, cancel)
                    self.cores.interrupted()
                    time_then, images_then = time.monotonic(), self._images
                    continue
                self.cores.before_step()
                loss = self._learn(batches.next(), fraction)
                self._smooth_loss = loss if self._smooth_loss is None else 0.97 * self._smooth_loss + 0.03 * loss
                now = time.monotonic()
                if now >= next_report:
                    next_report = now + REPORT_S
                    rate = (self._images - images_then) / max(now - time_then, 1e-6)
                    images_then, time_then = self._images, now
                    report.progress(self._figures(fraction, validation) | {"imagesPerSecond": round(rate, 1)})
                else:
                    report.status(step=self.step, seconds=round(self.seconds, 2))
                if now >= next_save:
                    self._save()
                    next_save = time.monotonic() + SAVE_S
        if request == "stop" and fraction < 1:
            self._save(last=True)
            report.log(f"Stopped at step {self.step}; run the job again to go on.")
            report.status(state="stopped", secondsLeft=self._seconds_left(), force=True)
            return False
        self._finish(validation)
        return True

    def _fraction(self) -> float:
        """How much of the schedule is over: that of the time, or, after a passed trial, what was left of it at once."""
        budget = self.settings.seconds
        if self._passed is None:
            return self.seconds / budget
        begun = self._passed / budget
        return begun + (1 - begun) * (self.seconds - self._passed) / self._cool_down()

    def _cool_down(self) -> float:
        """Seconds from a passed trial to the end."""
        assert self._passed is not None
        return max(min(COOL_DOWN * self.settings.seconds, self.settings.seconds - self._passed), 1e-3)

    def _seconds_left(self) -> float:
        end = self.settings.seconds if self._passed is None else self._passed + self._cool_down()
        return round(max(end - self.seconds, 0.0), 1)

    def _trial_due(self, fraction: float) -> bool:
        settings = self.settings
        return (
            settings.target > 0
            and self._passed is None
            and FIRST_TRIAL <= fraction <= LAST_TRIAL
            and self._validation.get("validationMtreMm", np.inf) <= (settings.target_mm or np.inf)
            and self._trial_seconds <= TRIAL_SHARE * self.seconds
        )

    def _try(self, validation: list[tuple[Tensor, Tensor]], cancel: Callable[[], bool] | None) -> None:
        """Run the whole pipeline on held-back fluoroscopies; where it reaches the target, the training winds up."""
        began = time.monotonic()
        self._save()
        if self._trials is None:
            self._trials = Trials(self.ct, self.job.task, device=self.device)
        number, self._trial_count = self._trial_count, self._trial_count + 1
        network = copy.deepcopy(self.average).cpu()
        calibration = self._calibration(self._validate(validation)[1])
        model = PoseModel(network, self.job.task, self.description() | {"calibration": calibration})

        def going_on() -> bool:
            self.reporter.status()  # the heartbeat
            late = self._trial_seconds + time.monotonic() - began > TRIAL_SHARE * self.settings.seconds
            return not (late or read_request(self.job.folder) or (cancel and cancel()))

        goal = Goal(self.settings.target, self.settings.trial_cases, self.job.seed)
        passed, rate = goal.passed(self._trials, model, number, going_on)
        self.seconds = time.monotonic() - self._began
        self._trial_seconds += time.monotonic() - began
        if rate is not None:
            self._success = {"validationSuccess": round(rate, 4)}
        if passed:
            self._passed = self.seconds
            self.reporter.log(
                f"Good enough at step {self.step} after {self.seconds:.0f} s: {rate:.0%} of {goal.cases} held-back "
                f"cases within {SUCCESS_MM:g} mm. Winding up in {self._cool_down():.0f} s."
            )

    def rate(self, fraction: float) -> float:
        """The learning rate at a fraction of the time: a rise, then a fall in a straight line to zero."""
        return self.settings.rate * min(1.0, fraction / self.settings.warm_up + 0.01) * (1 - fraction)

    def _learn(self, batch: tuple[Tensor, Tensor], fraction: float) -> float:
        """One step of the optimiser; the loss."""
        self._tuning = self.settings.similarity > 0 and fraction >= self.settings.similarity_from
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(fraction)
        loss = self.gradients(batch)
        self.optimiser.step()
        self.step += 1
        self._images += self.settings.batch
        keep = min(self.settings.average, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - keep)
        return loss

    def gradients(self, batch: tuple[Tensor, Tensor]) -> float:
        """Put the gradients of a batch's mean loss, over all processes, into the parameters; the loss.

        When a GPU's memory does not hold the batch it is worked through in smaller parts, from then on.
        """
        while True:
            try:
                loss = self._gradients(batch)
                break
            except torch.cuda.OutOfMemoryError:
                if self._chunks >= len(batch[0]):
                    raise
                self._chunks *= 2
                torch.cuda.empty_cache()
                self.reporter.log(
                    f"The GPU's memory is full: each batch is now worked through in {self._chunks} parts."
                )
        self.processes.average_gradients(self.network)
        return loss

    def _gradients(self, batch: tuple[Tensor, Tensor]) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for images, offsets in zip(batch[0].chunk(self._chunks), batch[1].chunk(self._chunks)):
            with self._precision():
                predicted, log_spread = self.network(images)
            predicted, log_spread = predicted.float(), log_spread.float()
            losses = self.loss(predicted, offsets)
            spread = self.loss.spread(predicted, offsets, log_spread, self.network.ranges)
            # Parts of a batch, in one process or several, count by their size: the sum is the whole batch's mean.
            share = len(images) * self.processes.world / self.settings.batch
            objective = losses.mean() + spread.mean()
            if self._tuning:
                objective = objective + self.settings.similarity * self._dissimilarity(images, predicted).mean()
            (objective * share).backward()
            total += float(losses.detach().mean()) * share
        if not np.isfinite(total):
            raise InputError("The training diverged (the loss is not finite); lower the rate or check the CT.")
        return total

    def _dissimilarity(self, images: Tensor, predicted: Tensor) -> Tensor:
        """1 - NCC (n,) of images with renderings at the predicted poses, differentiable by these."""
        from ..rendering.autograd import project

        assert self.source.plain
        task = self.job.task
        view, center = (torch.tensor(a, dtype=torch.float64, device=self.device) for a in (task.axes, task.center))
        poses = camera_to_ras(predicted.double(), view, center, task.carm.source_to_isocenter)
        rendered = project(self.source.plain, self.source.carm, poses)
        return 1 - ncc(rendered, images.flatten(1))

    def _precision(self) -> AbstractContextManager[Any]:
        """bfloat16 on GPUs that have it. On CPUs float32 is as fast or faster (docs/pretraining.md)."""
        if self.device == "cpu" or not torch.cuda.is_bf16_supported():
            return nullcontext()
        return torch.autocast("cuda", torch.bfloat16)

    @torch.no_grad()
    def _validate(self, validation: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """mTRE (n,) in mm and error over expected error (n, 6) on held-back images."""
        errors, ratios = [], []
        for images, offsets in validation:
            predicted, log_spread = self.average(images)
            errors.append(self.loss.mtre(predicted, offsets))
            ratios.append((predicted - offsets) / self.network.ranges * torch.exp(-log_spread))
        return torch.cat(errors), torch.cat(ratios)

    @staticmethod
    def _calibration(ratios: Tensor) -> list[float]:
        """Factors (6,) on expected errors: a Gaussian's middle 68 % tells its width without being led by outliers."""
        return [float(factor) for factor in ratios.abs().quantile(0.68, dim=0).clamp(0.2, 10)]

    def _figures(self, fraction: float, validation: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
        if time.monotonic() - self._validated >= VALIDATE_S or fraction >= 1:
            errors, _ = self._validate(validation)
            self._validation = {
                "validationMtreMm": round(float(errors.median()), 3),
                "validationMtre95Mm": round(float(errors.quantile(0.95)), 3),
            }
            self._validated = time.monotonic()
        return {
            "state": "running",
            "step": self.step,
            "steps": round(self.step / max(fraction, 1e-3)),
            "seconds": round(self.seconds, 2),
            "budget": self.settings.seconds,
            "secondsLeft": self._seconds_left(),
            "loss": round(self._smooth_loss or 0.0, 4),
            "rate": self.rate(fraction),
            **self._validation,
            **self._success,
        }

    def _pause(self, cancel: Callable[[], bool] | None) -> None:
        """Save and wait until the request is taken back or becomes another."""
        began = time.monotonic()
        self._save()
        self.reporter.log(f"Paused at step {self.step}.")
        self.reporter.status(state="paused", force=True)
        request = "pause"
        while request == "pause":
            time.sleep(0.2)
            self.reporter.status()
            request = "stop" if cancel and cancel() else read_request(self.job.folder)
            _, request = self.processes.agree(0.0, request)
        self._began += time.monotonic() - began
        self.reporter.log("Going on." if request != "stop" else "Asked to stop.")
        self.reporter.status(state="running", force=True)

    def _finish(self, validation: list[tuple[Tensor, Tensor]]) -> None:
        errors, ratios = self._validate(validation)
        report = self._figures(1.0, validation)
        report |= {"secondsLeft": 0.0, "rate": 0.0}
        self._save(last=True)
        if self.processes.leader:
            self._write_model(self._calibration(ratios), errors)
        self.reporter.log(
            f"Done: {self.step} steps, {self.seconds:.0f} s, median validation mTRE {float(errors.median()):.1f} mm."
        )
        state = "certifying" if self.settings.cases else "done"
        rate = round(self._images / max(self.seconds, 1), 1)
        self.reporter.progress(report | {"state": state, "imagesPerSecond": rate})

    def description(self) -> dict[str, Any]:
        """What turns tensors back into a model."""
        return {
            "network": self.config.to_json(),
            "task": self.job.task.to_json(),
            "fingerprint": self.job.fingerprint,
            "preset": self.job.preset,
            "step": self.step,
            "seconds": self.seconds,
            "trials": self._trial_count,
            "trialSeconds": self._trial_seconds,
            "passed": self._passed,
            "budget": self.settings.seconds,
            "looksTwice": self.settings.second_looks > 0,
        }

    def _write_model(self, calibration: list[float], errors: Tensor) -> None:
        data = self.description() | {
            "calibration": calibration,
            "validationMtreMm": float(errors.median()),
            "validationMtre95Mm": float(errors.quantile(0.95)),
        }
        self._to_disk(MODEL, dict(self.average.state_dict()), data, last=True)

    def _save(self, last: bool = False) -> None:
        if not self.processes.leader:
            return
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
        self._to_disk(CHECKPOINT, tensors, self.description(), last)

    def _to_disk(self, name: str, tensors: dict[str, Tensor], data: dict[str, Any], last: bool) -> None:
        """Save; a full disk is reported and the training goes on, unless there is no next time to try."""
        for _ in range(3):
            try:
                save_checkpoint(self.job.folder / name, tensors, data)
                if self.reporter.latest.get("message"):
                    self.reporter.status(message="", force=True)
                    self.reporter.log(f"{name} is saved again, at step {self.step}.")
                return
            except OSError as error:
                failure = error
                text = f"{name} cannot be saved: {reason(error)}."
                if self.reporter.latest.get("message") != text:
                    self.reporter.log(text)
                self.reporter.status(message=text, force=True)
                if not last:
                    return
                time.sleep(0.5)
        raise failure

    def _warm_start(self) -> None:
        """Begin with another job's network. Raises InputError where it is of another kind."""
        tensors, data = load_checkpoint(self.job.folder / START)
        if json.dumps(data.get("network")) != json.dumps(self.config.to_json()):
            raise InputError(
                "The model to start from is another kind of network; use one of the same preset and C-arm."
            )
        tensors["ranges"] = self.network.ranges  # its outputs are in units of these: the order's count
        self.network.load_state_dict(tensors)
        self.average.load_state_dict(tensors)
        self.reporter.log(f"Beginning with a model that was trained for {data['step']} steps.")

    def _load(self) -> None:
        """Go on from the job's checkpoint.

        Raises:
            InputError: it is damaged, of another version, or of another job.
        """
        tensors, data = load_checkpoint(self.job.folder / CHECKPOINT)
        if data.get("fingerprint") != self.job.fingerprint:
            raise InputError("The checkpoint in the job folder belongs to another CT; make the job in a new folder.")
        if json.dumps(data.get("network")) != json.dumps(self.config.to_json()):
            raise InputError("The checkpoint in the job folder is another network's; make the job in a new folder.")
        part = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
        self.network.load_state_dict(part("network."))
        self.average.load_state_dict(part("average."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in part("optimiser.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
        full = self.optimiser.state_dict()
        self.optimiser.load_state_dict({"state": state, "param_groups": full["param_groups"]})
        self.step, self.seconds = int(data["step"]), float(data["seconds"])
        self._trial_count, self._trial_seconds = int(data["trials"]), float(data["trialSeconds"])
        if data["budget"] == self.settings.seconds:  # given more time since, it goes on to use that
            self._passed = data["passed"]
