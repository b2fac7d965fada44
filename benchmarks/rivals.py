"""Ways to hold the same steps: bytes of each, samples per second, and what an update takes with it.

    pip install zstandard stable-baselines3 'sb3-extra-buffers[fast]'
    python -m benchmarks.rivals --envs atari/qbert dmc/walker-walk

Every store holds the same real steps of a random player. Bytes per step are all bytes of the store over its steps: Python's
objects, where a store keeps some, and actions, rewards and flags too. An update is the preset's agent's, sampling included.
"""

import functools
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from seer_rl import build, train
from seer_rl.codec import KINDS
from seer_rl.envs import frames_in
from seer_rl.presets import configure
from seer_rl.replay import Batch, Replay
from seer_rl.seer import freeze

ATARI = ("atari/seaquest", "atari/crazy_climber", "atari/alien", "atari/private_eye", "atari/qbert")
DMC = ("dmc/cartpole-swingup", "dmc/walker-walk", "dmc/cheetah-run")
LEVEL = 3  # of zstd

Obs = NDArray[np.uint8]


@dataclass(frozen=True)
class Step:
    obs: Obs
    action: Any
    reward: float
    terminated: bool
    truncated: bool
    next_obs: Obs


def steps(env: gym.Env[Any, Any], count: int) -> Iterator[Step]:
    """A random player's, always the same."""
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    for _ in range(count):
        action = env.action_space.sample()
        next_obs, reward, terminated, truncated, _ = env.step(action)
        yield Step(obs, action, float(reward), terminated, truncated, next_obs)
        obs = env.reset()[0] if terminated or truncated else next_obs


class Zstd:
    """Every frame once, compressed by itself; what a stack needs is decompressed when it is sampled."""

    def __init__(self, stack: int, frame: tuple[int, ...], n_step: int, discount: float) -> None:
        import zstandard

        self.compress = zstandard.ZstdCompressor(level=LEVEL).compress
        self.decompress = zstandard.ZstdDecompressor().decompress
        self.stack, self.frame, self.n_step = stack, frame, n_step
        self.gamma = discount ** np.arange(n_step)
        self.frames: list[bytes] = []
        self.actions: list[Any] = []
        self.rewards: list[float] = []
        self.rng = np.random.default_rng(0)

    def add(self, step: Step) -> None:
        self.frames.append(self.compress(step.obs[-self.frame[0] :].tobytes()))
        self.actions.append(step.action)
        self.rewards.append(step.reward)

    @property
    def nbytes(self) -> int:
        objects = sum(map(sys.getsizeof, self.frames)) + sys.getsizeof(self.frames)
        return objects + np.asarray(self.actions).nbytes + 4 * len(self.rewards) + len(self.frames)

    def images(self, index: NDArray[np.int64]) -> torch.Tensor:
        many = [self.decompress(self.frames[i]) for last in index for i in range(last - self.stack + 1, last + 1)]
        pixels = np.frombuffer(bytearray(b"".join(many)), np.uint8)
        return torch.from_numpy(pixels.reshape(len(index), self.stack * self.frame[0], *self.frame[1:]))

    def sample(self, batch: int) -> Batch:
        """Episodes' ends are ignored: they would only cost more."""
        index = self.rng.integers(self.stack, len(self.frames) - self.n_step, batch)
        rewards = np.array([np.dot(self.rewards[i : i + self.n_step], self.gamma) for i in index], np.float32)
        action = torch.from_numpy(np.asarray([self.actions[i] for i in index]))
        ones = torch.ones(batch)
        return Batch(self.images(index), action, torch.from_numpy(rewards), ones, self.images(index + self.n_step), index, ones)


def measure(env_name: str, count: int, table: Table, compressed: bool) -> None:
    """A row for each store of `count` steps of an environment."""
    config = configure(env_name, preset="paper")
    with closing(build.make_env(config, training=True)) as env:
        agent = build.make_agent(config, env, 0)
        shape, space = env.observation_space.shape or (), env.action_space
        stack, batch = frames_in(env), config.agent.batch_size
        frame = (shape[0] // stack, *shape[1:])

        def empty() -> Replay:
            of_actions = space.shape or (), build.action_dtype(space)
            return Replay(shape, *of_actions, capacity=count + count // 50, stack=stack, n_step=config.agent.n_step)

        replay = empty()
        zstd = Zstd(stack, frame, config.agent.n_step, config.agent.discount)
        theirs: dict[str, Any] = {}
        if compressed:
            from sb3_extra_buffers.compressed import CompressedReplayBuffer
            from stable_baselines3.common.buffers import ReplayBuffer

            spaces: Any = (env.observation_space, space)
            theirs["Stable-Baselines3, stacks"] = ReplayBuffer(count, *spaces, device="cpu")
            theirs[f"sb3-extra-buffers, zstd{LEVEL}"] = CompressedReplayBuffer(
                count, *spaces, device="cpu", compression_method=f"zstd{LEVEL}"
            )
        first = True
        for step in steps(env, count):
            if first:
                replay.start(step.obs)
            replay.add(step.action, step.reward, step.terminated, step.truncated, step.next_obs)
            first = step.terminated or step.truncated
            zstd.add(step)
            for buffer in theirs.values():
                buffer.add(step.obs[None], step.next_obs[None], np.asarray([step.action]), np.asarray([step.reward]),
                           np.asarray([step.terminated]), [{}])  # fmt: skip
        replay.start(step.next_obs)
    frames_bytes = replay.bytes_per_step
    print(f"{env_name}: {count:,} steps recorded", file=sys.stderr, flush=True)

    def row(name: str, nbytes: float, sample: Callable[[int], Any], updates: bool = True) -> None:
        cells = [f"{nbytes:,.0f}", f"{frames_bytes / nbytes:.2f}x"]
        for size in (32, 512):
            work = functools.partial(sample, size)
            cells.append(f"{size / machine.seconds(work, repeats=15):,.0f}")
        if updates:
            cells.append(f"{1e3 * machine.seconds(lambda: agent.update(sample(batch)), repeats=5):.1f}")
        table.add_row(env_name, name, *cells)

    for name, buffer in theirs.items():
        row(name, stored(buffer) / count, buffer.sample, updates=False)
    row("frames, each once", frames_bytes, replay.sample)
    row(f"frames, zstd level {LEVEL}", zstd.nbytes / count, zstd.sample)
    state, segments = replay.get_state(), [bytes(segment) for segment in replay.segments()]
    plain = {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in state.items()}
    for kind in KINDS:
        embeddings = empty()
        embeddings.set_state(plain, segments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            freeze(agent, embeddings, copies=config.seer.copies, dtype=kind)
        row(f"embeddings, {kind}", embeddings.bytes_per_step, embeddings.sample)


def stored(buffer: Any) -> int:
    """All bytes of a Stable-Baselines3 buffer."""
    arrays = [value for value in vars(buffer).values() if isinstance(value, np.ndarray)]
    objects = sum(sys.getsizeof(one) for array in arrays if array.dtype == object for one in array.flat)
    return objects + sum(array.nbytes for array in arrays)


def main(envs: tuple[str, ...] = ATARI + DMC, steps: int = 50_000, rivals: bool = True) -> None:
    """Print the table.

    Args:
        envs: Environments.
        steps: Of each.
        rivals: Also the stores of Stable-Baselines3 and sb3-extra-buffers.
    """
    train.tune_cpu()
    torch.set_num_threads(1)
    table = Table(title=f"The same {steps:,} steps in different stores")
    for column in ("", "store", "bytes per step", "of frames", "samples/s, batch 32", "512", "update, ms"):
        table.add_column(column, justify="left" if column in ("", "store") else "right")
    for name in envs:
        begun = time.perf_counter()
        measure(name, steps, table, rivals)
        print(f"{name}: measured, {time.perf_counter() - begun:.0f} s in all", file=sys.stderr, flush=True)
    console = Console(width=130)
    console.print(table)
    console.print(machine.name(), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    tyro.cli(main)
