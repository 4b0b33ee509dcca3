"""How many threads the network learns with: the faster number, found again when the machine's load changes."""

from __future__ import annotations

import pytest

from DiffPoseSlicerLib.pretraining.cores import Cores


class Machine:
    """A machine on which a step takes so many seconds with each number of threads."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.threads, self.time, self.used = seconds, 0, 0.0, {}

    def use(self, count: int) -> None:
        self.threads = count

    def learn(self, cores: Cores, seconds: float) -> None:
        """Steps for so many seconds; `used` counts those of each number of threads."""
        end, self.used = self.time + seconds, dict.fromkeys(self.seconds, 0)
        while self.time < end:
            cores.before_step()
            self.used[self.threads] += 1
            self.time += self.seconds[self.threads]


@pytest.mark.parametrize(("idle", "better"), [(True, 2), (False, 1)])
def test_the_faster_number_does_nearly_all_steps(idle: bool, better: int):
    machine = Machine({1: 0.2, 2: 0.14 if idle else 2.0})
    cores = Cores([1, 2], machine.use, lambda: machine.time)
    machine.learn(cores, 60)
    machine.learn(cores, 40)
    assert cores.count == machine.threads == better
    assert machine.used[better] > 0.8 * sum(machine.used.values())


def test_a_machine_that_becomes_busy_is_noticed():
    machine = Machine({1: 0.2, 2: 0.14})
    cores = Cores([1, 2], machine.use, lambda: machine.time)
    machine.learn(cores, 20)
    assert cores.count == 2
    machine.seconds[2] = 2.0
    machine.learn(cores, 90)
    assert cores.count == 1


def test_a_pause_is_not_mistaken_for_slowness():
    machine = Machine({1: 0.2, 2: 0.14})
    cores = Cores([1, 2], machine.use, lambda: machine.time)
    while machine.threads != 2:
        cores.before_step()
        machine.time += machine.seconds[machine.threads]
    for _ in range(5):
        cores.before_step()
        machine.time += machine.seconds[2]
    machine.time += 100
    cores.interrupted()
    machine.learn(cores, 20)
    assert cores.count == 2


def test_one_number_is_kept():
    said: list[int] = []
    cores = Cores([1, 1], said.append, lambda: 0.0)
    for _ in range(30):
        cores.before_step()
    assert said == [1]
