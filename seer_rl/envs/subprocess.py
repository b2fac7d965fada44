"""Environments in a process of their own: they step while the agent learns, and nothing that befalls them ends the run."""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym

from seer_rl import child, envs, outside
from seer_rl.envs import base
from seer_rl.envs.base import EnvConfig, Step

FOR_THE_RUN = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # signals: the run still wants the states of its environments
PATIENCE = 120.0  # seconds without an answer after which a process counts as hung; some environments take long to build


class EnvironmentFailed(Exception):
    """The environment raised an exception, hangs, or its process is gone."""


class EnvProcess:
    """Several training environments `envs.make(name, training=True, settings)`, numbered from 0, in another process.

    `ask` and `answers` let the caller do something in between. An environment that fails is gone, and is made anew when it is
    next reset or given a state, as it was at first. When the process fails, all that were asked have failed, and there is
    nothing left but `close`.
    """

    def __init__(self, name: str, settings: EnvConfig) -> None:
        """Start the process; environments are made when they are reset, or given a state."""
        self.patience = PATIENCE
        self.failure: EnvironmentFailed | None = None  # of the process
        self._asked: list[int] = []
        ours, theirs = socket.socketpair()
        with theirs:
            command, variables = child.python("seer_rl.envs.subprocess", str(theirs.fileno()))
            before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_RUN)  # which it inherits, until it can ignore them
            try:
                self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=variables)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._pipe = Connection(ours.detach())
        self._send((name, settings))

    @property
    def pid(self) -> int:
        """Return the number of the other process."""
        return self._process.pid

    def ask(self, method: str, arguments: Mapping[int, Any]) -> None:
        """Ask environments for something, by their numbers, and return before they have done it.

        method: "step", "reset", "get_state" or "set_state", with an action, a seed or None, None, or a state.
        """
        self._asked = list(arguments)
        self._send((method, dict(arguments)))

    def answers(self) -> dict[int, Any]:
        """Return what the environments answer to the latest `ask`, by their numbers; EnvironmentFailed of those that fail."""
        try:
            if self.failure:
                raise self.failure
            told = self._told()
        except EnvironmentFailed as failure:
            self.failure = failure
            return dict.fromkeys(self._asked, failure)
        return {i: result if error is None else EnvironmentFailed(error) for i, (error, result) in told.items()}

    def close(self) -> None:
        """End the process, whatever it does."""
        self._pipe.close()
        try:
            self._process.wait(timeout=1)  # it ends by itself at the end of the pipe, and frees its renderer
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, message: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `answers` says what happened
            self._pipe.send(message)

    def _told(self) -> dict[int, tuple[str | None, Any]]:
        try:
            if not self._pipe.poll(self.patience):
                raise EnvironmentFailed(f"no answer for {self.patience:g} seconds")
            told: dict[int, tuple[str | None, Any]] = self._pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1)
            raise EnvironmentFailed(f"its process ended with code {self._process.returncode}") from None
        return told


def serve(pipe: Connection) -> None:
    """Be the other process: do what is asked for, until the pipe ends."""
    for number in FOR_THE_RUN:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FOR_THE_RUN)
    name, settings = pipe.recv()
    made: dict[int, gym.Env[Any, Any]] = {}
    with contextlib.suppress(EOFError, OSError):
        while True:
            method, arguments = pipe.recv()
            told: dict[int, tuple[str | None, Any]] = {}
            for i, argument in arguments.items():
                try:
                    if i not in made and method in ("reset", "set_state"):
                        made[i] = envs.make(name, training=True, settings=settings)
                    told[i] = None, _done(made[i], method, argument)
                except Exception as error:  # of many kinds, by the simulator
                    told[i] = outside.told(error), None
                    with contextlib.suppress(Exception):
                        made.pop(i).close()  # what is left of it may be in any state
            pipe.send(told)
    for env in made.values():
        env.close()


def _done(env: gym.Env[Any, Any], method: str, argument: Any) -> Any:
    """Do what an environment is asked for; return the answer."""
    match method:
        case "step":
            obs, reward, terminated, truncated, info = env.step(argument)
            told = {name: info[name] for name in info if name == "episode"}  # the rest may be large, or no message at all
            first = env.reset()[0] if terminated or truncated else None
            return Step(obs, float(reward), bool(terminated), bool(truncated), told, first)
        case "reset":
            return env.reset(seed=argument)[0]
        case "get_state":
            return base.get_state(env)
        case "set_state":
            return base.set_state(env, argument)
    raise ValueError(f"an environment cannot {method!r}")


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
    os._exit(0)
