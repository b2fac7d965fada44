"""Training in several environments at once: as many updates, in every lane what its environment gave, failures apart."""

import dataclasses
import functools
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_rl.agents.rainbow import Rainbow, RainbowConfig
from seer_rl.commands.main import main
from seer_rl.envs.base import EnvConfig, Step
from seer_rl.envs.vector import VectorEnv
from seer_rl.replay.lane import TRUNCATED
from seer_rl.training import build, loop
from seer_rl.training.config import EvalConfig, SeerConfig, TrainConfig
from seer_rl.training.events import Event, Fault, Metrics
from seer_rl.training.logger import read
from seer_rl.training.run import Run

FOUR = TrainConfig(
    "atari/qbert",
    steps=200,
    seed=5,
    environment=EnvConfig(num_envs=4),
    seer=SeerConfig(freeze_step=150),
    eval=EvalConfig(every=100, episodes=1),
    agent=RainbowConfig(learning_starts=100, batch_size=8, hidden=16, n_step=3),
)


def updates(run: Run) -> int:
    assert isinstance(run.agent, Rainbow)
    return run.agent.updates


def test_there_are_as_many_steps_and_updates_as_with_one(tmp_path: Path) -> None:
    """And as many operations, but for the records that are frozen: each lane has a newest observation."""
    four = Run(dataclasses.replace(FOUR, run_dir=tmp_path / "four"))
    loop.train(four)
    one = Run(dataclasses.replace(FOUR, environment=EnvConfig(), run_dir=tmp_path / "one"))
    loop.train(one)
    assert updates(four) == updates(one) == 101
    assert isinstance(four.agent, Rainbow)
    assert four.agent.acts == one.step == 200
    # Frozen were 150 steps and a newest observation, or 152 and four; after it came 50 steps, or 48.
    costs, difference = four.costs, (four.account.operations[0] - one.account.operations[0])
    frozen, acted = (152 + 4) - (150 + 1), 48 - 50
    updates_on = 2 * (costs.update(False)[0] - costs.update(True)[0])  # two more of the updates were on images
    assert difference == costs.freeze(frozen)[0] + acted * costs.act(True)[0] + updates_on
    metrics = read(four.run_dir)
    assert [step for step, _ in metrics["eval/return"]] == [100, 200]
    assert metrics["seer/freeze_step"] == [(152, 152.0)]


def test_every_lane_holds_what_its_environment_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[int, Step]] = []
    step = VectorEnv.step_wait

    def noted(env: VectorEnv) -> dict[int, Any]:
        given.append(step(env))
        return given[-1]

    monkeypatch.setattr(VectorEnv, "step_wait", noted)
    run = Run(dataclasses.replace(FOUR, seer=SeerConfig(), run_dir=tmp_path / "run"))
    loop.train(run)
    assert len({bytes(given[0][lane].obs) for lane in range(4)}) > 1  # other seeds: other no-ops
    for lane in run.replay._store.lanes:
        rows = lane.rows(0, lane.size)
        steps = [one[lane.number] for one in given]
        stored = iter(rows.tolist())
        for one in steps:
            row = next(stored)
            assert run.replay._store.steps["reward"][row] == one.reward
            if one.truncated and not one.terminated:
                next(stored)
            if one.terminated or one.truncated or one is steps[-1]:
                continue
            after = run.replay._store.stacks(np.array([lane.behind(row, -1)]))["obs"][0]
            assert np.array_equal(after.numpy(), one.obs)


def test_the_same_seed_gives_the_same_run_in_however_many_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = []
    for cores in (2, 8):
        monkeypatch.setattr(os, "sched_getaffinity", functools.partial(lambda cores, _: set(range(cores)), cores))
        run = Run(dataclasses.replace(FOUR, run_dir=tmp_path / str(cores)))
        seen: set[int] = set()

        def count(run: Run, event: Event | Metrics, seen: set[int] = seen) -> None:
            seen.add(len(run.pids()))

        loop.train(run, count)
        assert max(seen) == 1 + cores // 2
        metrics.append((run.run_dir / "metrics.csv").read_bytes())
    assert metrics[0] == metrics[1]


def test_an_environment_that_fails_cuts_its_own_episode_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(dataclasses.replace(FOUR, seer=SeerConfig(), run_dir=tmp_path / "run"))
    failing, step_async = {120: 2}, VectorEnv.step_async

    def wrong(env: VectorEnv, actions: dict[int, Any]) -> None:
        lane = failing.get(run.step)
        step_async(env, {i: "no action" if i == lane else action for i, action in actions.items()})

    monkeypatch.setattr(VectorEnv, "step_async", wrong)
    with pytest.warns(UserWarning, match=r"environment 2 failed at step 120 .* was started anew"):
        loop.train(run)
    sizes = [lane.size for lane in run.replay._store.lanes]
    assert min(sizes) >= 50
    cut = [lane.number for lane in run.replay._store.lanes if (lane.flags[lane.rows(0, lane.size)] & TRUNCATED).any()]
    assert cut == [2]
    failing.clear()
    failing[160] = 3  # another one may fail once, too; the same one may not
    failing[180] = 3
    run = Run(dataclasses.replace(FOUR, seer=SeerConfig(), run_dir=tmp_path / "again"))
    with pytest.warns(UserWarning, match="environment 3 failed"), pytest.raises(Fault, match="failed again at step 180"):
        loop.train(run)
    with closing(loop.resume(tmp_path / "again", pytest.fail)) as resumed:
        assert resumed.step == 180


def test_steps_are_those_of_all_environments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "atari/qbert", "--env.num-envs", "3", "--steps", "1000"]) == 2
    assert "3 environments cannot take 1,000 steps together: ask for --steps 1002" in capsys.readouterr().err
    config = dataclasses.replace(FOUR, steps=1000)
    assert build.every_step(config, build.make_env(config, training=False)) % 4 == 0


def test_all_are_embedded_in_one_pass(tmp_path: Path) -> None:
    run = Run(dataclasses.replace(FOUR, run_dir=tmp_path / "run"))
    with closing(run):
        run.begin()
        for _ in range(5):
            run.advance()
        run.freeze()
        passes: list[int] = []
        run.agent.lower.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
        run.advance()
        assert passes == [4]  # their new observations; none to act on, which was embedded before
