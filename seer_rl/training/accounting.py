"""What a run has spent: operations, time and bytes, by its phases."""

import contextlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from seer_rl.agents.flops import Costs
from seer_rl.replay.replay import Replay
from seer_rl.training.config import TrainConfig


@dataclass
class Phase:
    """A stretch of the run: filling the replay, training on images, or training on embeddings. As of its latest step."""

    name: str  # fill, images or embeddings
    operations: tuple[int, int]  # of one step and its share of an update: (paper, true)
    steps: int = 0
    seconds: float = 0.0  # of acting, storing and updating
    replay_steps: int = 0
    replay_capacity: int = 0
    replay_bytes: int = 0
    bytes_per_step: int = 0
    process_bytes: int = 0  # most of the process's memory seen so far

    @property
    def steps_per_second(self) -> float:
        """Return the agent steps per second, with the environment; NaN before the first."""
        return self.steps / self.seconds if self.steps and self.seconds else float("nan")


class Account:
    """The phases of a run and its operations so far."""

    def __init__(self, costs: Costs, config: TrainConfig) -> None:
        self.costs, self.config = costs, config
        self.operations = (0, 0)  # so far: (paper, true)
        self.phases: list[Phase] = []
        self.enter("fill", frozen=False)

    @property
    def phase(self) -> Phase:
        """Return the present phase."""
        return self.phases[-1]

    def enter(self, name: str, frozen: bool) -> None:
        """Begin a phase: fill, images or embeddings."""
        act = self.costs.act(frozen)
        update = self.costs.update(frozen) if name != "fill" else (0, 0)
        times, every = self.config.seer.replay_ratio if frozen else 1, self.config.agent.update_every
        self.phases.append(Phase(name, (act[0] + times * update[0] // every, act[1] + times * update[1] // every)))

    def count(self, operations: tuple[int, int]) -> None:
        """Add operations: (paper, true)."""
        self.operations = (self.operations[0] + operations[0], self.operations[1] + operations[1])

    def measure(self, replay: Replay, pids: Iterable[int]) -> None:
        """Look at what the replay holds, and what memory the processes take."""
        phase = self.phase
        phase.replay_steps, phase.replay_capacity, phase.replay_bytes = replay.size, replay.capacity, replay.nbytes
        phase.bytes_per_step = replay.bytes_per_step
        with contextlib.suppress(psutil.Error):  # the environment's may have been killed
            phase.process_bytes = max(phase.process_bytes, sum(psutil.Process(pid).memory_info().rss for pid in pids))

    def metrics(self) -> dict[str, float]:
        """Return what is the same wherever the run is repeated."""
        phase, (paper, true) = self.phase, self.operations
        return {
            "replay/steps": phase.replay_steps,
            "replay/capacity": phase.replay_capacity,
            "replay/bytes": phase.replay_bytes,
            "replay/bytes_per_step": phase.bytes_per_step,
            "compute/flops": paper,
            "compute/true_operations": true,
        }

    def clock(self) -> dict[str, float]:
        """Return what depends on the machine."""
        speed, seconds = self.phase.steps_per_second, sum(phase.seconds for phase in self.phases)
        known = {"charts/SPS": speed} if speed == speed else {}
        return {**known, "charts/seconds": seconds, "charts/process_bytes": self.phase.process_bytes}

    def get_state(self) -> list[dict[str, Any]]:
        """Return the phases, for a checkpoint."""
        return [asdict(phase) for phase in self.phases]

    def set_state(self, phases: list[dict[str, Any]], operations: tuple[int, int]) -> None:
        """Go on from what `get_state` gave, and the operations so far."""
        self.phases = [Phase(**phase) for phase in phases]
        self.operations = (operations[0], operations[1])
