"""An environment in a process of its own: it steps while the agent learns, and nothing that befalls it ends the run."""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_rl import child, envs
from seer_rl.envs import base
from seer_rl.envs.base import EnvConfig

PATIENCE = 120.0  # seconds without an answer after which an environment counts as hung; some take long to build

Obs = NDArray[np.uint8]


class EnvironmentFailed(Exception):
    """The environment raised an exception, hangs, or its process is gone."""


class SubprocessEnv:
    """The training environment `envs.make(name, training=True, settings)`, in another process.

    `step_async` and `step_wait` let the caller do something in between; everything else waits for its answer. Everything raises
    EnvironmentFailed where there is none, after which only `close` may follow.
    """

    def __init__(self, name: str, settings: EnvConfig) -> None:
        self.patience = PATIENCE
        self._failure: EnvironmentFailed | None = None
        ours, theirs = socket.socketpair()
        with theirs:
            command, variables = child.python("seer_rl.envs.subprocess", str(theirs.fileno()))
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=variables)
        self._pipe = Connection(ours.detach())
        self._send((name, settings))

    @property
    def pid(self) -> int:
        """Return the number of the other process."""
        return self._process.pid

    def reset(self, seed: int | None = None) -> Obs:
        """Start an episode, [C, H, W] uint8."""
        self._send(("reset", seed))
        obs: Obs = self._receive()
        return obs

    def step_async(self, action: Any) -> None:
        """Let the environment take a step, and return before it has."""
        self._send(("step", action))

    def step_wait(self) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Return what that step gave, as `gymnasium.Env.step` does."""
        result: tuple[Obs, float, bool, bool, dict[str, Any]] = self._receive()
        return result

    def get_state(self) -> dict[str, Any] | None:
        """Do what `envs.base.get_state` does."""
        self._send(("get_state", None))
        state: dict[str, Any] | None = self._receive()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Do what `envs.base.set_state` does."""
        self._send(("set_state", state))
        self._receive()

    def close(self) -> None:
        """End the process, whatever it does."""
        self._pipe.close()
        try:
            self._process.wait(timeout=1)  # it ends by itself at the end of the pipe, and frees its renderer
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, message: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `_receive` says what happened
            self._pipe.send(message)

    def _receive(self) -> Any:
        if self._failure:
            raise self._failure
        try:
            return self._answer()
        except EnvironmentFailed as failure:
            self._failure = failure
            raise

    def _answer(self) -> Any:
        try:
            if not self._pipe.poll(self.patience):
                raise EnvironmentFailed(f"no answer for {self.patience:g} seconds")
            error, result = self._pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1)
            raise EnvironmentFailed(f"its process ended with code {self._process.returncode}") from None
        if error is not None:
            raise EnvironmentFailed(error)
        return result


def serve(pipe: Connection) -> None:
    """Be the other process: do what is asked for, until the pipe ends."""
    for name in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # meant for the run, which still wants to save this environment's state
        signal.signal(name, signal.SIG_IGN)
    name, settings = pipe.recv()
    env = None
    while True:
        try:
            if env is None:
                env = envs.make(name, training=True, settings=settings)
            asked, argument = pipe.recv()
            result: Any = None
            if asked == "step":
                result = env.step(argument)
            elif asked == "reset":
                result = env.reset(seed=argument)[0]
            elif asked == "get_state":
                result = base.get_state(env)
            else:
                base.set_state(env, argument)
            answer: tuple[str | None, Any] = None, result
        except EOFError:
            break
        except Exception as error:  # of many kinds, by the simulator
            answer = repr(error), None
        try:
            pipe.send(answer)
        except OSError:
            break
    if env is not None:
        env.close()


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
    os._exit(0)
