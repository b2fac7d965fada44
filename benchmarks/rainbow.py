"""An agent step of Rainbow (or another) before and after the freeze, by pieces and end to end, against what the machine can do.

    python -m benchmarks.rainbow                                        # Alien, one thread, as `seer train` runs it
    python -m benchmarks.rainbow --threads 2
    python -m benchmarks.rainbow --threads 2 --num-envs 1 8            # one environment beside eight at once
    python -m benchmarks.rainbow --precision bfloat16                  # with products in bfloat16
    python -m benchmarks.rainbow --env dmc/cartpole-swingup --agent curl --precision bfloat16  # with the renderer beside it
    python -m benchmarks.rainbow --device cuda                         # every piece waits for the GPU, so no two overlap
    python -m benchmarks.rainbow --agent dqn --peer                     # beside Stable-Baselines3's DQN (pip install it first)

The two sides take turns, so that whatever slows the machine otherwise slows both.
"""

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from seer_rl import envs
from seer_rl.agents.dqn import DQN
from seer_rl.seer import freeze
from seer_rl.training import process
from seer_rl.training.config import ReplayConfig, SeerConfig, TrainConfig
from seer_rl.training.play import chosen
from seer_rl.training.presets import configure
from seer_rl.training.run import Run

ROUNDS, FILL = 12, 500


@dataclass
class Side:
    """A run and what its pieces took, in milliseconds."""

    run: Run
    times: dict[str, list[float]] = field(default_factory=dict)
    compiling: float = 0.0

    def timed(self, what: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = work()
        machine.finish(self.run.device)
        self.times.setdefault(what, []).append(1e3 * (time.perf_counter() - begun))
        return result

    def step(self) -> None:
        """As `Run.advance`, with a clock beside every piece."""
        run = self.run
        assert run.env
        begun = time.perf_counter()
        actions = self.timed("act", lambda: run.agent.act(run._observed()))
        run.env.step_async(dict(enumerate(chosen(actions))))
        for _ in range(run.num_envs):
            batch = self.timed("sample", lambda: run.replay.sample(run.batch_size).to(run.device))
            self.timed("update", functools.partial(run.agent.update, batch))
        steps = self.timed("wait for the environment", run.env.step_wait)
        self.timed("store", lambda: run._store(actions, steps))
        self.times.setdefault("whole step", []).append(1e3 * (time.perf_counter() - begun) / run.num_envs)

    def floor(self, rate: float, bandwidth: float) -> float:
        """Milliseconds that an update's arithmetic and memory traffic would take at the machine's best.

        Of every number that is trained: weight and two moments read and written, gradient written and read, by Adam and what
        comes before it; of every other, read once.
        """
        trained: int = sum(p.numel() for p in self.run.agent.parameters() if p.requires_grad)
        others: int = sum(p.numel() for p in self.run.agent.parameters()) - trained
        return 1e3 * (self.run.costs.update(self.run.frozen)[1] / rate + 4 * (8 * trained + others) / bandwidth)


def prepare(config: TrainConfig, frozen: bool) -> Side:
    """A run with some steps of real play in its replay."""
    side = Side(Run(replace(config, run_dir=Path(tempfile.mkdtemp()) / "run")))
    run = side.run
    run.begin()
    assert run.env
    if isinstance(run.agent, DQN):  # explores as little as later in a run: a random action costs no pass of the network
        run.agent.acts = run.agent.config.epsilon_steps
    for _ in range(FILL // run.num_envs):
        actions = torch.from_numpy(np.array([run.eval_env.action_space.sample() for _ in range(run.num_envs)]))
        run.env.step_async(dict(enumerate(chosen(actions))))
        run._store(actions, run.env.step_wait())
    if frozen:
        freeze(run.agent, run.replay)
        run.frozen_at = 0
    side.compiling = run.compile() if run.compiles else 0.0
    return side


def environment_rate(name: str, steps: int = 2_000) -> float:
    """Steps per second of the environment alone, with random actions."""
    with closing(envs.make(name, training=True)) as env:
        env.reset(seed=0)
        begun = time.perf_counter()
        for _ in range(steps):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()
        return steps / (time.perf_counter() - begun)


def peer_rate(name: str, batch_size: int, device: torch.device, steps: int = 1_500) -> float:
    """Steps per second of Stable-Baselines3's DQN on the same environment, network (Nature CNN) and batch."""
    from stable_baselines3 import DQN

    with closing(envs.make(name, training=True)) as env:
        model = DQN(
            "CnnPolicy", env, batch_size=batch_size, buffer_size=10_000, learning_starts=500, train_freq=1, device=device
        )
        model.learn(600)
        begun = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        return steps / (time.perf_counter() - begun)


def main(
    env: str = "atari/alien",
    agent: Literal["rainbow", "dqn", "sac", "rad", "curl", "drqv2"] = "rainbow",
    threads: int = 1,
    precision: Literal["float32", "bfloat16"] = "float32",
    compile: bool = True,
    peer: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    num_envs: tuple[int, ...] = (1,),
) -> None:
    """Print a table for each number of environments.

    Args:
        env: Whose game.
        agent: Whose update; it is here made at every step, like Rainbow's.
        threads: CPU threads.
        precision: Of the products.
        compile: Compile the losses.
        peer: Also time Stable-Baselines3's DQN.
        device: Of the agent; auto: cuda where there is one.
        num_envs: Environments at once. A whole step is always that of one of them.
    """
    config = configure(env, agent)
    config = replace(
        config,
        steps=100_000,
        agent=replace(config.agent, learning_starts=0, update_every=1),
        seer=SeerConfig(freeze_step=50_000),
        replay=ReplayConfig(memory=70_560_000),
        precision=precision,
        threads=threads,
        compile=compile,
        device=device,
    )
    process.prepare(config)
    several = {
        n: [prepare(replace(config, environment=replace(config.environment, num_envs=n)), frozen) for frozen in (False, True)]
        for n in num_envs
    }
    counts = (4, 20) if several[num_envs[0]][0].run.agent.continuous else (40, 100)  # steps in a turn: on images, on embeddings
    for turn in range(ROUNDS):
        for n, sides in several.items():
            for side, count in zip(sides, counts, strict=True):
                for _ in range(-(-count // n)):
                    side.step()
                if turn == 0:
                    side.times.clear()  # the first turn warms up
    where = several[num_envs[0]][0].run.device
    rates, bandwidth, alone = machine.rates(where), machine.bandwidth(where), environment_rate(env)
    console = Console(width=100)
    speeds: dict[int, list[float]] = {}
    for n, sides in several.items():
        title = (
            f"{agent} on {env} ({n} at once), {precision}, {'compiled' if compile else 'not compiled'}: ms, median (10% to 90%)"
        )
        speeds[n] = tell(console, title, sides, rates[precision], bandwidth)
    for n in num_envs[1:]:
        gains = [more / one for more, one in zip(speeds[n], speeds[num_envs[0]], strict=True)]
        console.print(f"{n} environments against {num_envs[0]}: {gains[0]:.2f}x on images, {gains[1]:.2f}x on embeddings")
    console.print(f"{machine.name(where)}", highlight=False, soft_wrap=True)
    console.print(f"{machine.ceilings(rates, bandwidth)}, environment {alone:,.0f} steps/s", soft_wrap=True)
    runs = [side.run for sides in several.values() for side in sides]
    held = sum(psutil.Process(pid).memory_info().rss for run in runs for pid in run.pids()[1:])
    console.print(
        f"memory: {psutil.Process().memory_info().rss / 1e6:.0f} MB (all runs) + {held / 1e6:.0f} MB (all environments)"
    )
    for run in runs:
        run.close()
    if peer:
        batch_size = config.agent.batch_size
        console.print(f"Stable-Baselines3 DQN, batch {batch_size}: {peer_rate(env, batch_size, where):.0f} steps/s")


def tell(console: Console, title: str, sides: list[Side], rate: float, bandwidth: float) -> list[float]:
    """Print the table of a run on images beside one on embeddings; return their steps per second."""
    table = Table(title=title)
    for column in ("", "on images", "on embeddings", "ratio"):
        table.add_column(column, justify="left" if not column else "right")

    def row(what: str, values: list[float], text: str = "{:,.2f}", more_is_better: bool = False) -> None:
        ratio = values[1] / values[0] if more_is_better else values[0] / values[1]
        table.add_row(what, *(text.format(value) for value in values), f"{ratio:.2f}x")

    for what in sides[0].times:
        medians = [statistics.median(side.times[what]) for side in sides]
        table.add_row(what, *(machine.spread(side.times[what]) for side in sides), f"{medians[0] / medians[1]:.2f}x")
    floors = [side.floor(rate, bandwidth) for side in sides]
    row("floor of the update", floors)
    row("update / floor", [statistics.median(side.times["update"]) / f for side, f in zip(sides, floors, strict=True)])
    row("sample / update", [statistics.median(s.times["sample"]) / statistics.median(s.times["update"]) for s in sides])
    speeds = [1e3 / statistics.fmean(side.times["whole step"]) for side in sides]
    row("steps/s, end to end", speeds, "{:,.0f}", more_is_better=True)
    row("bytes per step", [side.run.replay.bytes_per_step for side in sides], "{:,.0f}")
    if all(side.compiling for side in sides):
        row("seconds to compile", [side.compiling for side in sides])
    console.print(table)
    return speeds


if __name__ == "__main__":
    tyro.cli(main)
