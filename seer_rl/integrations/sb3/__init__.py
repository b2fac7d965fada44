"""SEER in Stable-Baselines3: DQN, SAC, TD3 and QR-DQN from images, alone or in dictionaries, in any number of environments.

    seer = Seer(freeze=50_000, dtype="uint8")
    model = SAC("CnnPolicy", env, replay_buffer_class=SeerBuffer, policy_kwargs=seer.policy_kwargs())
    model.learn(500_000, callback=seer)

Images are stored once, not as an observation and again as the next one. At step 50,000 the convolutions stop training, and each
stored image becomes what they make of it. What lies above them, the library's own linear layer first, goes on learning.
"""

import warnings
from typing import Any, Literal, cast

from seer_rl.integrations import checksum, require

require("stable-baselines3", "2.9", "3", "sb3")  # before names are imported that another version may not have

from stable_baselines3.common.callbacks import BaseCallback

from seer_rl.convergence import GAMES, progress
from seer_rl.integrations.sb3.buffer import SeerBuffer
from seer_rl.integrations.sb3.networks import Seam, SeerExtractor
from seer_rl.replay.codec import BITS, EXAMPLES, LEAST, Dtype, require_dtype
from seer_rl.seer import AtStep, WhenConverged, embedder, freeze

__all__ = ["Seer", "SeerBuffer", "SeerExtractor"]

EARLIEST = 10_000  # timesteps: no automatic freeze comes before


class Seer(BaseCallback):
    """Freezes a model's convolutions and its replay buffer. Give it to `model.learn` as a callback."""

    def __init__(self, freeze: int | Literal["auto"], dtype: Dtype = "float32", latest: int | None = None) -> None:
        """freeze: the timestep; or "auto": when signals of the training say that the convolutions have converged, and at
        `latest` (None: half of the run) whatever they say. What a random player scores is taken from the games before
        `learning_starts`. dtype: how embeddings are stored, see `seer_rl.replay.codec.Dtype`.
        Raises ValueError for another `freeze` or `dtype`.
        """
        super().__init__()
        if freeze != "auto" and not isinstance(freeze, int):
            raise ValueError(f"freeze is a timestep or 'auto', not {freeze!r}")
        require_dtype(dtype)
        self.freeze_step, self.dtype, self.latest = freeze, dtype, latest
        self.seam: Seam | None = None  # of the model that it is given to
        self.when: AtStep | WhenConverged | None = None
        self.first = 0  # the timestep at which learning begins: before it, games are a random player's
        self.scores: dict[bool, list[float]] = {True: [], False: []}  # of games; True: the random player's
        self.told = False  # that there is no random player's game
        self.enough = 1  # steps that the buffer holds at a freeze, at least
        self.frozen_at: int | None = None
        self.report: dict[str, float] = {}  # of the freeze: bytes of a step and steps that fit, before and after

    def policy_kwargs(self, **others: Any) -> dict[str, Any]:
        """Return the policy's settings that SEER needs, beside `others`.

        The library's default of `net_arch` depends on the extractor's class. For the networks that it makes without SEER, give
        `net_arch=[]` to DQN and QR-DQN, and `[256, 256]` to TD3; by itself it makes [64, 64] and [400, 300] here.
        Raises ValueError where `others` has another extractor, or normalizes images.
        """
        ours = {"features_extractor_class": SeerExtractor, "normalize_images": False}
        if odd := [name for name, value in ours.items() if others.get(name, value) != value]:
            raise ValueError(f"SEER needs its own {odd[0]}, which divides images by 255 and can be frozen: leave out yours")
        return {**others, **ours}

    @property
    def buffer(self) -> SeerBuffer:
        """Return the model's replay buffer. Raises ValueError where it is another."""
        buffer = getattr(self.model, "replay_buffer", None)
        if not isinstance(buffer, SeerBuffer):
            raise ValueError("the model needs SEER's replay buffer: make it with replay_buffer_class=SeerBuffer")
        return buffer

    def _init_callback(self) -> None:
        """Refuse a model that cannot be frozen, and give a loaded buffer its encoder."""
        if self.seam is None or self.seam.model is not self.model:
            self.seam, self.when, self.scores = Seam(self.model), None, {True: [], False: []}
            if not self.seam.frozen:  # a loaded model may go on from the freeze that this one made
                self.told, self.frozen_at, self.report = False, None, {}
        env = self.model.get_vec_normalize_env()
        if env is not None and env.norm_obs:
            raise ValueError("SEER stores what a fixed encoder makes of raw images: use VecNormalize(norm_obs=False)")
        n_step, gamma = (self.buffer.settings[name] for name in ("n_step", "discount"))
        if self.buffer.n_envs != self.model.n_envs:
            n, its = self.buffer.n_envs, self.model.n_envs
            raise ValueError(f"the buffer's number of environments is {n}, and the model's is {its}: give the model {n}")
        if n_step > 1 and env is not None and env.norm_reward:
            raise ValueError(
                "the buffer sums rewards before VecNormalize clips them one by one: use n_steps=1, or norm_reward=False"
            )
        if n_step > 1 and gamma != cast(Any, self.model).gamma:
            raise ValueError(f"the buffer sums rewards with gamma={gamma}: replay_buffer_kwargs needs the model's own gamma")
        if self.seam.shared:
            warnings.warn("share_features_extractor=True trains the encoder by one loss only, in SAC the actor's", stacklevel=2)
        if self.buffer.frozen:
            if checksum(self.seam.lower.state_dict().values()) != self.buffer.made_by:
                raise ValueError("other convolutions made the embeddings in this buffer: load the policy saved with it")
            self.buffer.embed.fn = embedder(self.seam, 1)

    def _on_training_start(self) -> None:
        """Refuse a freeze that cannot be meant."""
        assert self.seam  # as `_init_callback` left it
        self.first, last = cast(Any, self.model).learning_starts, self.model._total_timesteps
        step = (self.latest or last // 2) if self.freeze_step == "auto" else self.freeze_step
        goes_on = not self.locals.get("reset_num_timesteps", True)  # so `last` is the end of this call only
        if goes_on and self.freeze_step == "auto" and self.latest is None and not self.num_timesteps:
            raise ValueError(
                "with reset_num_timesteps=False nobody knows how long training goes on in all, and freeze='auto' comes at half "
                "of it at the latest: say when with Seer(latest=...)"
            )
        if not self.buffer.frozen and not self.seam.frozen and not (self.first < step and (step < last or goes_on)):
            why = "the encoder would never have been trained"
            if step > self.first:
                why = "it would never come (where further calls of learn go on, give all of them reset_num_timesteps=False)"
            raise ValueError(f"a freeze at {step} must lie between learning_starts={self.first} and the end, {last}: {why}")
        begins = self.num_timesteps + self.buffer.settings["n_step"] * self.model.n_envs
        if self.buffer.settings["n_step"] > 1 and not self.buffer.size() and self.first < begins:
            raise ValueError(f"returns of n steps need n steps first, and the buffer is empty: set learning_starts to {begins}")
        # A policy that comes without its buffer has seen many steps, and the buffer few: of those no grid can be made.
        capacity = self.buffer.replay.capacity
        least = min(LEAST, capacity) if self.dtype in BITS else 1
        self.enough = max(least, min(EXAMPLES, capacity // 2, step // 2))
        if self.freeze_step != "auto" or self.seam.frozen:
            self.when = AtStep(step)
        elif isinstance(self.when, WhenConverged) and self.num_timesteps:  # learning goes on, and so do its measurements
            self.when.earliest, self.when.latest = min(EARLIEST, step), step
        else:
            self.when = WhenConverged(cast(Any, self.seam), min(EARLIEST, step), step, self.model.n_envs)

    def _on_step(self) -> bool:
        """Freeze where that is due."""
        assert self.seam
        step, replay = self.num_timesteps, self.buffer.replay
        random = step <= self.first
        self.scores[random] += [info["episode"]["r"] for info in self.locals.get("infos", ()) if "episode" in info]
        if self.buffer.frozen or not self.buffer.size():
            return True
        if isinstance(self.when, WhenConverged) and not random and not self.scores[True] and not self.told:
            self.told = True
            warnings.warn(
                f"no game of a random player is known, so freeze='auto' waits for step {self.when.latest:,}: games must end "
                f"before learning_starts={self.first}, and the environment needs the library's Monitor",
                stacklevel=2,
            )
        if isinstance(self.when, WhenConverged) and not random and self.when.measures(step):
            scored = progress(self.scores[False][-GAMES:], self.scores[True])
            self.when.monitor.measure(cast(Any, self.seam), replay, step, scored)
        due = self.seam.frozen or (self.when is not None and self.when.due(step))
        if due and self.buffer.size() >= self.enough:
            if not self.seam.frozen and not cast(Any, self.model)._n_updates:
                raise ValueError(f"a freeze at {step} comes before the first update: let it come later")
            self.report = {"bytes_before": replay.bytes_per_step, "steps_before": replay.capacity}
            freeze(self.seam, replay, copies=1, dtype=self.dtype)
            self.seam.fix()
            self.buffer.made_by = checksum(self.seam.lower.state_dict().values())
            self.frozen_at, self.buffer.buffer_size = step, replay.capacity // self.buffer.n_envs
            self.report |= {"bytes_after": replay.bytes_per_step, "steps_after": replay.capacity}
        return True
