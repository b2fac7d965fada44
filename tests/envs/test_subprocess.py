"""Environments in processes of their own against the same ones in this process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import psutil
import pytest

from seer_rl import envs
from seer_rl.envs import base
from seer_rl.envs.dmc import ControlConfig
from seer_rl.envs.subprocess import EnvironmentFailed, EnvProcess
from seer_rl.envs.vector import VectorEnv

SMALL = ControlConfig(size=24, fast_render=True)
NAMES: dict[str, base.EnvConfig] = {"atari/pong": base.EnvConfig(), "dmc/cartpole-swingup": SMALL}


@pytest.mark.parametrize("name", NAMES)
def test_they_are_the_same_environments(name: str) -> None:
    """Three of them in two processes: every step, what begins after an episode, and states that go to and fro."""
    ours = [envs.make(name, True, NAMES[name]) for _ in range(3)]
    with pytest.MonkeyPatch.context() as patch, closing(_two_processes(patch, name, 3)) as vector:
        first = vector.reset({i: 5 + i for i in range(3)})
        for i, env in enumerate(ours):
            env.action_space.seed(i)
            assert np.array_equal(first[i], env.reset(seed=5 + i)[0])
        ends = 0
        for step in range(200):
            actions = {i: env.action_space.sample() for i, env in enumerate(ours)}
            vector.step_async(actions)
            expected = [env.step(actions[i]) for i, env in enumerate(ours)]
            for i, found in vector.step_wait().items():
                assert np.array_equal(found.obs, expected[i][0])
                assert found[1:4] == expected[i][1:4]
                assert found.info == {key: told for key, told in expected[i][4].items() if key == "episode"}
                assert (found.first is not None) == (found.terminated or found.truncated)
                if found.first is not None:
                    ends += 1
                    assert np.array_equal(found.first, ours[i].reset()[0])
            if step == 100:  # the ones go on from the others' states
                for i, theirs in vector.get_state(dict.fromkeys(range(3))).items():
                    base.set_state(ours[i], theirs)
                vector.set_state({i: base.get_state(env) for i, env in enumerate(ours)})
    assert ends or name == "atari/pong"
    for env in ours:
        env.close()


def _two_processes(patch: pytest.MonkeyPatch, name: str, count: int) -> VectorEnv:
    patch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    vector = VectorEnv(name, NAMES[name], count)
    assert len(vector.pids) == min(2, count)
    return vector


@pytest.fixture(params=NAMES)
def vector(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[VectorEnv]:
    """Numbers 0 and 2 are in one process, number 1 in another."""
    with closing(_two_processes(monkeypatch, request.param, 3)) as vector:
        first = vector.reset({0: 0, 1: 1, 2: 2})
        assert not any(isinstance(answer, EnvironmentFailed) for answer in first.values())
        yield vector


def failed(answers: dict[int, Any]) -> dict[int, str]:
    return {i: str(answer) for i, answer in answers.items() if isinstance(answer, EnvironmentFailed)}


def action(vector: VectorEnv) -> Any:
    return 0 if "atari" in vector._name else np.zeros(1, np.float32)


def test_one_that_raises_fails_alone(vector: VectorEnv) -> None:
    vector.step_async({0: "no action", 1: action(vector), 2: action(vector)})
    assert failed(vector.step_wait()).keys() == {0}
    vector.step_async(dict.fromkeys(range(3), action(vector)))
    answers = vector.step_wait()  # it is gone until it is reset
    assert failed(answers).keys() == {0}
    assert "Error" in failed(answers)[0]
    assert failed(vector.get_state({0: None, 1: None})).keys() == {0}
    assert not failed(vector.reset({0: 7}))
    vector.step_async(dict.fromkeys(range(3), action(vector)))
    assert not failed(vector.step_wait())


def test_a_process_that_dies_takes_its_own_with_it(vector: VectorEnv) -> None:
    os.kill(vector.pids[0], signal.SIGKILL)
    vector.step_async(dict.fromkeys(range(3), action(vector)))
    answers = vector.step_wait()
    assert failed(answers) == dict.fromkeys((0, 2), "its process ended with code -9")
    assert not failed(vector.reset({0: 7, 2: 8}))
    vector.step_async(dict.fromkeys(range(3), action(vector)))
    assert not failed(vector.step_wait())


def test_a_process_that_hangs_is_told_and_replaced(vector: VectorEnv) -> None:
    vector.patience = 2.0
    os.kill(vector.pids[1], signal.SIGSTOP)
    assert failed(vector.get_state(dict.fromkeys(range(3)))) == {1: "no answer for 2 seconds"}
    os.kill(vector.pids[1], signal.SIGCONT)  # its late answer is not taken for that to another question
    assert failed(vector.get_state({1: None})) == {1: "no answer for 2 seconds"}
    vector.patience = 60
    assert not failed(vector.reset({1: 3}))
    assert not failed(vector.get_state(dict.fromkeys(range(3))))


def test_they_are_not_meant_by_signals_and_end_with_their_run() -> None:
    code = (
        "import time; from seer_rl.envs.base import EnvConfig; from seer_rl.envs.vector import VectorEnv; "
        "env = VectorEnv('atari/pong', EnvConfig(), 2); env.reset({0: 0, 1: 1}); print(env.pids[0], flush=True); time.sleep(60)"
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


def test_a_signal_while_it_starts_is_not_meant_for_it_either() -> None:
    with closing(EnvProcess("atari/pong", base.EnvConfig())) as process:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process.pid, number)  # long before its imports are done
        process.ask("reset", {0: 1})
        assert not failed(process.answers())


def test_an_unknown_question_is_no_answer() -> None:
    with closing(EnvProcess("atari/pong", base.EnvConfig())) as process:
        process.ask("reset", {0: 1})
        assert not failed(process.answers())
        process.ask("fly", {0: None})
        assert "cannot 'fly'" in failed(process.answers())[0]
