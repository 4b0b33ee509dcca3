"""Trials of a finished model in processes of their own, one a core.

Python runs one thread at a time and a registration is made of many short calls, so that cases side by side in one
process gain next to nothing; in processes they take a third less time on two cores, and scale with them.

A process is asked for one case after another by a line on its standard input (the case's seed) and answers with a line
(the outcome). It ends with its input, so none outlives the one that asks, however that ends. What it needs it reads
from the job folder.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..errors import InputError
from ..processes import with_library
from ..rendering.threads import cores
from .job import Job
from .model import PoseModel
from .trials import Outcome, Trials

# Each process holds the CT at several resolutions, so not more than this many, whatever the machine has.
MOST = 6
# What an answer holds instead of an outcome where the case failed.
_FAILED = "failed"


def is_whole(folder: Path) -> bool:
    """Whether a folder has all that a process needs: a model alone may have been copied elsewhere."""
    return all((folder / name).is_file() for name in ("job.json", "ct.npy", "model.safetensors"))


class TrialWorkers:
    """Processes that try the model of a job folder. A context: they end with it.

    Args:
        folder: The job folder.
        clutter, display: See :class:`trials.Trials`.
    """

    def __init__(self, folder: Path, *, clutter: float = 0.0, display: float = 0.0) -> None:
        self.count = min(cores(), MOST)
        share = str(max(1, cores() // self.count))
        environment = with_library(os.environ) | dict.fromkeys(
            ("DIFFPOSESLICER_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), share
        )
        environment["OPENBLAS_NUM_THREADS"] = "1"
        command = [sys.executable, "-m", __name__, str(folder.resolve()), str(clutter), str(display)]
        self._processes: list[subprocess.Popen[str]] = []
        self._idle: queue.SimpleQueue[subprocess.Popen[str] | None] = queue.SimpleQueue()
        for _ in range(self.count):
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, encoding="utf-8"
            )
            self._processes.append(process)
            self._idle.put(process)

    def attempt(self, seed: list[int]) -> Outcome:
        """One case, by whichever process is idle; called by as many threads as there are processes.

        Raises:
            InputError: all processes have ended.
            RuntimeError: the case failed; the process's own account is in the log.
        """
        while process := self._idle.get():
            try:
                assert process.stdin and process.stdout
                process.stdin.write(json.dumps(seed) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except OSError:  # it has ended
                answer = ""
            if answer:
                self._idle.put(process)
                said = json.loads(answer)
                if _FAILED in said:
                    raise RuntimeError(f"Trial {seed} failed: {said[_FAILED]}")
                return Outcome.from_json(said)
            if all(other.poll() is not None for other in self._processes if other is not process):
                break
        self._idle.put(None)
        raise InputError("The processes that try the model were ended from outside (is memory short?): certify again.")

    def __enter__(self) -> TrialWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # what was written to a process that had ended
                    assert pipe
                    pipe.close()


def main(folder: str, clutter: str, display: str, asked: IO[str], answers: IO[str]) -> None:
    """Answer until there is nothing more asked."""
    import torch

    torch.set_num_threads(cores())
    job, model = Job.open(folder), PoseModel.load(folder)
    trials = Trials(job.ct(), model.task, clutter=float(clutter), display=float(display), device="cpu")
    for line in asked:
        try:
            outcome: dict[str, Any] = asdict(trials.attempt(model, json.loads(line)))
        except Exception as error:
            traceback.print_exc()
            outcome = {_FAILED: f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(outcome) + "\n")
        answers.flush()


if __name__ == "__main__":
    # What libraries print goes to the log.
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.stdin, own)
