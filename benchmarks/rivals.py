"""Ways to hold the same steps: bytes of each, samples per second, and what an update takes with it.

    pip install zstandard stable-baselines3 'sb3-extra-buffers[fast]'
    python -m benchmarks.rivals --envs atari/qbert dmc/walker-walk

Every store holds the same real steps of a random player. Bytes per step are all bytes of the store over its steps: Python's
objects, where a store keeps some, and actions, rewards and flags too. An update is the preset's agent's, sampling included.
Stable-Baselines3's buffers hold every stack once (optimize_memory_usage) and sample single steps; the others sample n-step
returns. Embeddings are those of an encoder as it begins: what they cost does not depend on what they say.
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
from seer_rl.envs.base import frames_in
from seer_rl.replay.codec import DTYPES
from seer_rl.replay.replay import Batch, Replay
from seer_rl.seer import freeze
from seer_rl.training import build
from seer_rl.training.config import TrainConfig
from seer_rl.training.presets import configure
from seer_rl.training.process import prepare

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


class Recording:
    """`count` steps of a random player, always the same. Only single frames are kept: some of the stores fill the memory."""

    def __init__(self, env: gym.Env[Any, Any], count: int, stack: int) -> None:
        self.stack, self.firsts = stack, {}
        self.steps: list[tuple[Any, float, bool, bool, Obs]] = []
        ended = True
        env.action_space.seed(0)
        obs, _ = env.reset(seed=0)
        for i in range(count):
            if ended:
                self.firsts[i] = self._newest(obs)
            action = env.action_space.sample()
            obs, reward, terminated, truncated, _ = env.step(action)
            self.steps.append((action, float(reward), terminated, truncated, self._newest(obs)))
            if ended := terminated or truncated:
                obs, _ = env.reset()

    def _newest(self, obs: Obs) -> Obs:
        return obs[-(len(obs) // self.stack) :].copy()

    def __iter__(self) -> Iterator[Step]:
        for i, (action, reward, terminated, truncated, frame) in enumerate(self.steps):
            if i in self.firsts:
                frames = [self.firsts[i]] * self.stack
            obs, frames = np.concatenate(frames), [*frames[1:], frame]
            yield Step(obs, action, reward, terminated, truncated, np.concatenate(frames))


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
        actions = np.asarray(self.actions)  # counted as this package holds them: one byte, or float32
        return objects + actions.size * (4 if actions.dtype.kind == "f" else 1) + 4 * len(self.rewards) + len(self.frames)

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


def measure(env_name: str, count: int, compressed: bool) -> Table:
    """A row for each store of `count` steps of an environment."""
    config = configure(env_name, preset="paper")
    with closing(build.make_env(config, training=True)) as env:
        agent = build.make_agent(config, env, 0)
        spaces: Any = env.observation_space, env.action_space
        stack, batch, n_step = frames_in(env), config.agent.batch_size, config.agent.n_step
        recording = Recording(env, count, stack)
    print(f"{env_name}: {count:,} steps recorded", file=sys.stderr, flush=True)
    shape, of_actions = spaces[0].shape, (spaces[1].shape or (), build.action_dtype(spaces[1]))

    def replay() -> Replay:
        filled = Replay(shape, *of_actions, capacity=count + count // 50, stack=stack, n_step=n_step)
        first = True
        for step in recording:
            if first:
                filled.begin(step.obs[None])
            filled.add([step.action], [step.reward], [step.terminated], [step.truncated], step.next_obs[None])
            first = step.terminated or step.truncated
        filled.begin(step.next_obs[None])
        return filled

    def zstd() -> Zstd:
        filled = Zstd(stack, (shape[0] // stack, *shape[1:]), n_step, config.agent.discount)
        for step in recording:
            filled.add(step)
        return filled

    def theirs(make: Callable[..., Any], **settings: Any) -> Any:
        filled = make(
            count, *spaces, device="cpu", optimize_memory_usage=True, handle_timeout_termination=False, **settings
        )  # every stack once, not again as the one before's next
        for step in recording:
            filled.add(step.obs[None], step.next_obs[None], np.asarray([step.action]), np.asarray([step.reward]),
                       np.asarray([step.terminated]), [{}])  # fmt: skip
        return filled

    frames = replay()
    frames_bytes = frames.nbytes / count
    table = Table(title=f"{env_name}: the same {count:,} steps in different stores")
    for column in ("store", "bytes per step", "of frames", "samples/s, batch 32", "512", "update, ms"):
        table.add_column(column, justify="left" if column == "store" else "right")

    def row(name: str, nbytes: float, sample: Callable[[int], Any], updates: bool = True) -> None:
        cells = [f"{nbytes:,.0f}", f"{frames_bytes / nbytes:.2f}x"]
        for size in (32, 512):
            work = functools.partial(sample, size)
            cells.append(f"{size / machine.seconds(work, repeats=15):,.0f}")
        if updates:
            cells.append(f"{1e3 * machine.seconds(lambda: agent.update(sample(batch)), repeats=5):.1f}")
        table.add_row(name, *cells)

    if compressed:
        from sb3_extra_buffers.compressed import CompressedReplayBuffer
        from stable_baselines3.common.buffers import ReplayBuffer

        plain = theirs(ReplayBuffer)
        row("Stable-Baselines3, stacks", stored(plain) / count, plain.sample, updates=False)
        del plain
        packed = theirs(CompressedReplayBuffer, compression_method=f"zstd{LEVEL}")
        row(f"sb3-extra-buffers, zstd{LEVEL}", stored(packed) / count, packed.sample, updates=False)
        del packed
    row("frames, each once", frames_bytes, frames.sample)
    del frames
    if compressed:
        each = zstd()
        row(f"frames, zstd level {LEVEL}", each.nbytes / count, each.sample)
        del each
    for kind in DTYPES:
        embeddings = replay()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            freeze(agent, embeddings, copies=config.seer.copies, dtype=kind)
        row(f"embeddings, {kind}", embeddings.nbytes / count, embeddings.sample)
    return table


def stored(buffer: Any) -> int:
    """All bytes of a Stable-Baselines3 buffer."""
    arrays = [value for value in vars(buffer).values() if isinstance(value, np.ndarray)]
    objects = sum(sys.getsizeof(one) for array in arrays if array.dtype == object for one in array.flat)
    return objects + sum(array.nbytes for array in arrays)


def main(envs: tuple[str, ...] = ATARI + DMC, steps: int = 50_000, rivals: bool = True) -> None:
    """Print a table for each environment.

    Args:
        envs: Environments.
        steps: Of each.
        rivals: Also the stores that have to be installed first: Stable-Baselines3's, sb3-extra-buffers' and frames under zstd.
    """
    prepare(TrainConfig("atari/alien"))
    console = Console(width=130)
    for name in envs:
        begun = time.perf_counter()
        table = measure(name, steps, rivals)
        print(f"{name}: measured, {time.perf_counter() - begun:.0f} s in all", file=sys.stderr, flush=True)
        console.print(table)
    console.print(machine.name(), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    tyro.cli(main)
