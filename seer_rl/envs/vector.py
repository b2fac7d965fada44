"""Several training environments at once, in a few processes beside the run's own."""

import os
from collections.abc import Mapping
from typing import Any

from seer_rl.envs.base import EnvConfig
from seer_rl.envs.subprocess import PATIENCE, EnvironmentFailed, EnvProcess


class VectorEnv:
    """N environments, numbered from 0, that step while the agent learns.

    Every method takes and returns dictionaries by these numbers. In the place of an answer stands EnvironmentFailed where an
    environment raised an exception, hangs, or its process is gone; and again until it is reset or given a state, for which it
    is made anew.
    """

    def __init__(self, name: str, settings: EnvConfig, count: int) -> None:
        """Start the processes: half as many as there are cores, if there are so many environments.

        The other cores are for the agent. What an environment does is the same in whatever process it is.
        """
        self.patience = PATIENCE  # seconds to wait for steps and states
        self._name, self._settings = name, settings
        processes = min(count, max(1, len(os.sched_getaffinity(0)) // 2 if hasattr(os, "sched_getaffinity") else 1))
        self._processes = [EnvProcess(name, settings) for _ in range(processes)]
        self._asked: list[int] = []  # the processes that owe an answer
        self._failures: dict[int, EnvironmentFailed] = {}  # of environments that must be made anew
        self._answers: dict[int, Any] = {}  # of those that were asked in vain

    @property
    def pids(self) -> list[int]:
        """Return the numbers of the processes."""
        return [process.pid for process in self._processes]

    def reset(self, seeds: Mapping[int, int | None]) -> dict[int, Any]:
        """Start an episode in each of these environments; return the first observations."""
        return self._answered("reset", seeds)

    def step_async(self, actions: Mapping[int, Any]) -> None:
        """Let these environments take a step, and return before they have."""
        self._ask("step", actions)

    def step_wait(self) -> dict[int, Any]:
        """Return what those steps gave, a `Step` each. Where an episode ended, the next one has begun."""
        return self._wait()

    def get_state(self, which: Mapping[int, None]) -> dict[int, Any]:
        """Do what `envs.base.get_state` does."""
        return self._answered("get_state", which)

    def set_state(self, states: Mapping[int, Any]) -> dict[int, Any]:
        """Do what `envs.base.set_state` does."""
        return self._answered("set_state", states)

    def close(self) -> None:
        """End the processes, whatever they do."""
        for process in self._processes:
            process.close()

    def _answered(self, method: str, arguments: Mapping[int, Any]) -> dict[int, Any]:
        self._ask(method, arguments)
        return self._wait()

    def _ask(self, method: str, arguments: Mapping[int, Any]) -> None:
        count = len(self._processes)
        gone = self._failures if method in ("step", "get_state") else {}
        self._answers = {i: gone[i] for i in arguments if i in gone}
        arguments = {i: argument for i, argument in arguments.items() if i not in gone}
        self._asked = sorted({i % count for i in arguments})
        for number in self._asked:
            if self._processes[number].failure and method in ("reset", "set_state"):
                self._processes[number].close()
                self._processes[number] = EnvProcess(self._name, self._settings)
            process = self._processes[number]
            process.patience = (
                PATIENCE if method in ("reset", "set_state") else self.patience
            )  # environments may have to be made
            process.ask(method, {i: argument for i, argument in arguments.items() if i % count == number})

    def _wait(self) -> dict[int, Any]:
        answers, self._answers = self._answers, {}
        for number in self._asked:
            answers |= self._processes[number].answers()
        for i, answer in answers.items():
            self._failures.pop(i, None)
            if isinstance(answer, EnvironmentFailed):
                self._failures[i] = answer
        return dict(sorted(answers.items()))
