"""The environment in a process of its own against the same one in this process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import psutil
import pytest

from seer_rl import envs
from seer_rl.envs import base
from seer_rl.envs.dmc import ControlConfig
from seer_rl.envs.subprocess import EnvironmentFailed, SubprocessEnv

SMALL = ControlConfig(size=24, fast_render=True)
NAMES: dict[str, base.EnvConfig] = {"atari/pong": base.EnvConfig(), "dmc/cartpole-swingup": SMALL}


@pytest.fixture(params=NAMES)
def apart(request: pytest.FixtureRequest) -> Iterator[SubprocessEnv]:
    with closing(SubprocessEnv(request.param, NAMES[request.param])) as env:
        env.name = request.param  # type: ignore[attr-defined]
        yield env


def test_it_is_the_same_environment(apart: SubprocessEnv) -> None:
    name = apart.name  # type: ignore[attr-defined]
    env = envs.make(name, True, NAMES[name])
    env.action_space.seed(0)
    assert np.array_equal(apart.reset(seed=5), env.reset(seed=5)[0])
    ends = 0
    for step in range(300):
        action = env.action_space.sample()
        apart.step_async(action)
        obs, *expected = env.step(action)
        found, *others = apart.step_wait()
        assert np.array_equal(found, obs)
        assert others == expected
        if expected[1] or expected[2]:
            ends += 1
            assert np.array_equal(apart.reset(), env.reset()[0])
        if step == 150:  # the one goes on from the other's state
            theirs = apart.get_state()
            assert theirs
            base.set_state(env, theirs)
            ours = base.get_state(env)
            assert ours
            apart.set_state(ours)
    assert ends or name == "atari/pong"
    env.close()


def test_what_befalls_it_is_told(apart: SubprocessEnv) -> None:
    apart.reset(seed=0)
    apart.patience = 0.3
    os.kill(apart.pid, signal.SIGSTOP)
    with pytest.raises(EnvironmentFailed, match=r"no answer for 0\.3 seconds"):
        apart.reset()
    os.kill(apart.pid, signal.SIGCONT)  # its late answer is not taken for that to another question
    with pytest.raises(EnvironmentFailed, match=r"no answer for 0\.3 seconds"):
        apart.get_state()


def test_its_errors_are_told(apart: SubprocessEnv) -> None:
    apart.reset(seed=0)
    apart.step_async("no action")
    with pytest.raises(EnvironmentFailed, match="Error"):
        apart.step_wait()


def test_its_death_is_told(apart: SubprocessEnv) -> None:
    os.kill(apart.pid, signal.SIGKILL)
    with pytest.raises(EnvironmentFailed, match="its process ended with code -9"):
        apart.reset()


def test_it_is_not_meant_by_signals_and_ends_with_its_run() -> None:
    code = (
        "import os, time; from seer_rl.envs.base import EnvConfig; from seer_rl.envs.subprocess import SubprocessEnv; "
        "env = SubprocessEnv('atari/pong', EnvConfig()); env.reset(seed=0); print(env.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        env = psutil.Process(int(run.stdout.readline()))
        env.send_signal(signal.SIGINT)  # Ctrl-C reaches every process of a terminal
        env.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert env.is_running()
        run.kill()
    psutil.wait_procs([env], timeout=10)
    assert not env.is_running()
