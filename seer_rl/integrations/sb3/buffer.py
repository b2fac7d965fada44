"""The library's replay buffer, on a replay of ours."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from seer_rl.integrations.sb3.networks import ONE, shapes
from seer_rl.replay.replay import Replay


class SeerBuffer(ReplayBuffer):
    """A replay buffer of the library that keeps its steps in a `seer_rl.Replay`, which `Seer` freezes.

    Every observation is stored once. What follows a termination is not stored: there `dones` is 1, and `next_observations` is
    another observation of the episode.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        memory: int | None = None,
        n_steps: int = 1,
        gamma: float = 0.99,
    ) -> None:
        """Reserve the memory: of `buffer_size` steps as images, or `memory` bytes, whatever `buffer_size` is.

        n_steps, gamma: of n-step returns; give them in `replay_buffer_kwargs`, with the algorithm's own gamma.
        optimize_memory_usage: has no effect; memory is used once in any case.
        Raises ValueError for spaces that it cannot hold.
        """
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        self.handle_timeout_termination, self.optimize_memory_usage = handle_timeout_termination, False
        discrete = isinstance(action_space, spaces.Discrete)
        if not discrete and not (isinstance(action_space, spaces.Box) and len(action_space.shape) == 1):
            raise ValueError(f"SEER stores discrete actions and vectors of numbers, not {action_space}")
        least = (n_steps + 2) * n_envs  # a model may be loaded with buffer_size=1, only to act
        size = {"memory": memory} if memory is not None else {"capacity": max(buffer_size, least)}
        self.settings: dict[str, Any] = {
            "obs_shape": shapes(observation_space),
            "action_shape": () if discrete else action_space.shape,
            "action_dtype": "int64" if discrete else "float32",
            "lanes": n_envs, "n_step": n_steps, "discount": gamma, "seed": int(torch.randint(2**31, ())), **size,
        }  # fmt: skip
        self.replay = Replay(**self.settings)  # in the computer's own memory, as the library's: batches are moved
        self.buffer_size = self.replay.capacity // n_envs
        self.embed = _Later()
        self.made_by: int | None = None  # the checksum of the convolutions that made the embeddings
        self._last: dict[str, NDArray[Any]] | None = None  # the observations that followed the latest steps
        self._running = np.zeros(n_envs, bool)

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        """Store a step of every environment, as the library's own buffer does."""
        before, after = self._as_stored(obs), self._as_stored(next_obs)
        went_on = self._running.copy()
        if self._last is not None:  # an environment may have been reset in between: then its episode was cut
            went_on &= np.array(
                [all(np.array_equal(self._last[k][i], before[k][i]) for k in before) for i in range(self.n_envs)]
            )
        if (begun := np.flatnonzero(~went_on)).size:
            self.replay.begin(_given({key: x[begun] for key, x in before.items()}, obs), begun.tolist())
        ended = np.asarray(done, bool)
        timeout = np.array([self.handle_timeout_termination and bool(i.get("TimeLimit.truncated", False)) for i in infos])
        shape = (self.n_envs, *self.settings["action_shape"])
        self.replay.add(np.asarray(action).reshape(shape), reward, ended & ~timeout, ended & timeout, _given(after, next_obs))
        self._last, self._running = {key: np.array(x) for key, x in after.items()}, ~ended

    def _as_stored(self, obs: Any) -> dict[str, NDArray[Any]]:
        """Return observations by key; boxes of numbers as vectors of float32, as the library's networks take them."""
        given, sizes = (x if isinstance(x, dict) else {ONE: x} for x in (obs, self.settings["obs_shape"]))
        return {
            key: np.asarray(x) if len(sizes[key]) == 3 else np.asarray(x, np.float32).reshape(self.n_envs, *sizes[key])
            for key, x in given.items()
        }

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """Draw transitions: images, or after the freeze embeddings."""
        batch = self.replay.sample(batch_size).to(torch.device(self.device))
        reward = batch.reward[:, None]
        if env is not None:
            reward = self.to_torch(self._normalize_reward(reward.cpu().numpy(), env))
        action = batch.action[:, None] if batch.action.dim() == 1 else batch.action
        done = (batch.discount == 0).float()[:, None]
        discounts = batch.discount[:, None] if self.settings["n_step"] > 1 else None
        return ReplayBufferSamples(batch.obs, action, batch.next_obs, done, reward, discounts)

    def size(self) -> int:
        """Count the steps that can be sampled."""
        return len(self.replay)

    def reset(self) -> None:
        """Forget all steps. The next are stored as images, until `Seer` freezes the buffer again."""
        super().reset()
        self.replay, self.embed, self.made_by = Replay(**self.settings), _Later(), None
        self.buffer_size = self.replay.capacity // self.n_envs
        self._last, self._running = None, np.zeros(self.n_envs, bool)

    @property
    def frozen(self) -> bool:
        """Tell whether embeddings are stored."""
        return self.replay.rewritten

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but the encoder, for `model.save_replay_buffer`."""
        # Views, which pickle writes without a copy of the whole replay.
        segments = [np.frombuffer(self.replay.segment(i), np.uint8) for i in range(self.replay.segment_count)]
        books = {kind: [np.frombuffer(part, np.uint8) for part in parts] for kind, parts in self.replay.books().items()}
        rest = {name: value for name, value in self.__dict__.items() if name not in ("replay", "embed")}
        return {"rest": rest, "replay": self.replay.get_state(), "segments": segments, "books": books}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on from what was saved; where it was frozen, `Seer` brings the encoder when learning goes on."""
        self.__dict__.update(state["rest"])
        self.replay, self.embed = Replay(**self.settings), _Later()
        fn = self.embed if state["replay"]["rewritten"] is not None else None
        self.replay.set_state(state["replay"], iter(state["segments"]), {k: iter(v) for k, v in state["books"].items()}, fn)


class _Later:
    """The function that makes embeddings, once it is known: a loaded buffer comes without the encoder."""

    fn: Any = None

    def __call__(self, obs: Any, current: bool) -> Any:
        if self.fn is None:
            raise RuntimeError("the loaded replay buffer is frozen: go on with model.learn(..., callback=seer)")
        return self.fn(obs, current)


def _given(stored: dict[str, NDArray[Any]], like: Any) -> Any:
    return stored if isinstance(like, dict) else stored[ONE]
