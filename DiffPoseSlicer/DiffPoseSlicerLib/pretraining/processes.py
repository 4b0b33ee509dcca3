"""One process, or several under `torchrun` that work on one job: the same steps, gradients averaged."""

from __future__ import annotations

import os
from types import TracebackType

import torch
from torch import Tensor, distributed, nn

from ..errors import InputError
from ..rendering.threads import cores

_REQUESTS = ("", "pause", "stop", "trial")


class Processes:
    """This process among those of the job.

    Attributes:
        rank, world: Which one of how many.
        device: torch device of this one.
    """

    def __init__(self, rank: int, world: int, device: str) -> None:
        self.rank, self.world, self.device = rank, world, device

    @classmethod
    def join(cls, device: str) -> Processes:
        """Find the others by the environment that torchrun sets; alone without it.

        Args:
            device: "auto", "cpu", "cuda" or "cuda:N"; with several GPUs each process takes its own.

        Raises:
            InputError: there is no such device.
        """
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        count = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
        if device == "auto":
            device = f"cuda:{local % count}" if count else "cpu"
        elif device == "cuda":
            device = f"cuda:{local % max(count, 1)}"
        if device != "cpu" and not (device.startswith("cuda:") and int(device[5:]) < count):
            raise InputError(f"The device {device!r} does not exist here ({count} GPUs); use auto or cpu.")
        if device == "cpu":
            local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            torch.set_num_threads(max(1, cores() // local_world))
        else:
            torch.cuda.set_device(device)
        return cls(rank, world, device)

    def thread_counts(self) -> list[int]:
        """The numbers of torch's threads worth trying, see `cores.Cores`: processes that share a machine take equal
        parts of it, whatever one of them would find faster."""
        if self.device != "cpu" or self.world > 1:
            return [torch.get_num_threads()]
        return [max(1, cores() - 1), cores()]

    def __enter__(self) -> Processes:
        if self.world > 1:
            distributed.init_process_group("gloo" if self.device == "cpu" else "nccl")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.world > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    @property
    def leader(self) -> bool:
        """Whether this one writes the job folder."""
        return self.rank == 0

    def agree(self, fraction: float, request: str) -> tuple[float, str]:
        """The leader's view of the time and of requests: all processes take the same branch."""
        if self.world == 1:
            return fraction, request
        known = request if request in _REQUESTS else ""
        message = torch.tensor([fraction, float(_REQUESTS.index(known))], dtype=torch.float64, device=self.device)
        distributed.broadcast(message, 0)
        return float(message[0]), _REQUESTS[int(message[1])]

    def average_gradients(self, network: nn.Module) -> None:
        """Replace gradients by their mean over all processes: one exchange of all of them.

        With equal parts of a batch in each process this is the gradient of the whole batch.
        """
        if self.world == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients]) / self.world
        distributed.all_reduce(flat)
        place = 0
        for gradient in gradients:
            part: Tensor = flat[place : place + gradient.numel()]
            gradient.copy_(part.view_as(gradient))
            place += gradient.numel()
