"""A run: what is trained, how far it is, and what can be done with it. In which order it is done says loop.py."""

import contextlib
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

import gymnasium as gym
import numpy as np
import torch

import seer_rl
from seer_rl.agents.networks import output_shape
from seer_rl.convergence import ENCODED, GAMES, progress
from seer_rl.envs.base import Step, frames_in, obs_shape
from seer_rl.envs.subprocess import EnvironmentFailed
from seer_rl.envs.vector import VectorEnv
from seer_rl.replay.codec import examples
from seer_rl.replay.observation import Obs, each, stack
from seer_rl.seer import AtStep, Never, When, WhenConverged, embedder, freeze
from seer_rl.training import build, checkpoint, rundir
from seer_rl.training.accounting import Account
from seer_rl.training.compile import compile_losses, rehearse_losses, uncompile_losses
from seer_rl.training.config import TrainConfig, check, check_same, to_toml
from seer_rl.training.play import chosen, evaluate, random_scores

PROGRESS = ("step", "frozen_at", "freeze_seconds", "scores", "random_scores", "evaluations")
STOP_PATIENCE = 15.0  # seconds that a run that is to stop waits for its environment's state


class Stopped(Exception):
    """Someone asked the run to stop, and it may."""


class Diverged(ArithmeticError):
    """Learning has broken down: a loss or a weight is no number any more."""


class Run:
    """A training run: agent, environments, replay, and what happened so far."""

    def __init__(self, config: TrainConfig, resumed: checkpoint.Checkpoint | None = None, again: bool = False) -> None:
        """Build everything, refuse settings that cannot work, and write nothing.

        resumed: what to go on from. again: the run directory is that of a run, which may have left no checkpoint. Raises
        ValueError, ImportError or OSError, each with a sentence that says what to do.
        """
        check(config, new=not again)
        self.config, self.resumed, self.again = config, resumed, again
        self.run_dir: Path = config.run_dir or build.default_run_dir(config)
        if not again:
            rundir.require_free(self.run_dir)
        env_seed, self.eval_seed, self.replay_seed, agent_seed = (
            int(s) for s in np.random.SeedSequence(config.seed).generate_state(4) >> 1
        )
        others = np.random.SeedSequence(env_seed).generate_state(config.environment.num_envs)[1:] >> 1
        self.env_seeds = [env_seed, *(int(seed) for seed in others)]
        self.device = build.choose_device(config.device)
        self.eval_env = build.make_env(config, training=False)
        if config.analysis.every and not again and isinstance(obs_shape(self.eval_env), Mapping):
            raise ValueError(
                f"snapshots are for seer analyze, which looks at single images, and the observations of {config.env} are "
                "dictionaries: leave out --analysis.every"
            )
        self.agent = build.make_agent(config, self.eval_env, agent_seed).to(self.device)
        build.require_contract(self.agent, self.eval_env, config)
        if config.transfer.source and not resumed:
            build.receive(self.agent, config.transfer)
        self.replay = build.make_replay(config, self.eval_env, self.agent, self.replay_seed)
        self.costs = build.costs(self.agent, self.eval_env, config)
        self.compiles = config.compile and self.agent.compiled is not None
        self.compiled_for: bool | None = None  # whether for embeddings; None as long as for nothing
        build.require_batch(config, self.replay.capacity, frames_in(self.eval_env), self.costs.batch_size[False])
        if config.seer.freeze_step is not None:  # too little memory for embeddings: say so now, not at T_f
            z = output_shape(self.agent.lower, self.agent.obs_shape, torch.uint8)
            embeddings = self.replay.capacity_for(config.seer.dtype, self.costs.copies, z)
            build.require_batch(config, embeddings, 1, self.costs.batch_size[True])
        self.when = self._when()
        self.account = Account(self.costs, config)

        self.env: VectorEnv | None = None  # of training, in processes of their own; `begin` begins it
        self.step = 0
        self.frozen_at: int | None = None  # T_f, once it is past
        self.freeze_seconds = float("nan")
        self.restarted: set[int] = set()  # the environments that failed once
        self.losses: dict[str, Any] = {}  # the latest metrics of updates
        self.scores: list[float] = []  # of the latest whole training games
        self.random_scores: list[float] = []
        self.evaluations: list[tuple[int, list[float]]] = []  # (step, scores)
        self.saved: int | None = None  # step of the newest checkpoint
        self.held: BinaryIO | None = None  # the lock of the run directory, once it is the run's own
        self.stopping = False  # set by whoever wants the run to stop: it does so soon, with a checkpoint
        if resumed:
            self._set_state(resumed)

    def _when(self) -> When:
        seer = self.config.seer
        if seer.freeze_step == "auto":
            return WhenConverged(self.agent, *seer.between(self.config.steps), self.num_envs)
        return Never() if seer.freeze_step is None else AtStep(seer.freeze_step)

    @property
    def num_envs(self) -> int:
        """Return the environments that take a step at once: so many agent steps."""
        return self.config.environment.num_envs

    def passed(self, every: int) -> bool:
        """Tell whether the latest agent steps reached a multiple of `every`."""
        return self.step // every > (self.step - self.num_envs) // every

    @property
    def frozen(self) -> bool:
        """Tell whether T_f is past."""
        return self.frozen_at is not None

    @property
    def ends(self) -> bool:
        """Tell whether this is the last step."""
        return self.step == self.config.steps

    @property
    def batch_size(self) -> int:
        """Return the transitions per update now."""
        return self.costs.batch_size[self.frozen]

    def check_stop(self) -> None:
        """Raise Stopped if someone wants the run to stop."""
        if self.stopping:
            raise Stopped

    def pids(self) -> list[int]:
        """Return the numbers of this process, and of the environments' while there are any."""
        return [os.getpid(), *(self.env.pids if self.env else [])]

    def close(self) -> None:
        """Free what the environments hold, and the run directory."""
        if self.env:
            self.env.close()
        self.eval_env.close()
        if self.held:
            self.held.close()
            self.held = None

    # ---- the environment -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin the training environments, as they were in the checkpoint or else at the start of an episode."""
        self.env = build.start_env(self.config)
        saved = self.resumed.state["env"] if self.resumed else None
        states = dict(enumerate(saved if isinstance(saved, list) else [saved]))  # earlier versions had one environment
        known = {i: state for i, state in states.items() if state is not None}
        if self.resumed and len(known) < self.num_envs:
            warnings.warn(
                f"the checkpoint of step {self.step:,} has no state of the environment: its episode is cut there and a new one "
                "begins, so the run does not go on exactly as it would have",
                stacklevel=2,
            )
        _require(self.env.set_state(known))
        self._begin_episodes([i for i in range(self.num_envs) if i not in known])

    def play_at_random(self) -> list[float]:
        """Let a player that chooses actions uniformly play as many games as an evaluation has; return its scores."""
        self.random_scores = random_scores(self.eval_env, self.config.eval.episodes, self.eval_seed, self.check_stop)
        return self.random_scores

    def _begin_episodes(self, lanes: list[int]) -> None:
        """Start an episode in each of these environments. Raises EnvironmentFailed where one fails."""
        assert self.env
        if lanes:
            first = _require(self.env.reset({i: self.env_seeds[i] + self.step for i in lanes}))
            self.replay.begin(stack(list(first.values())), lanes)

    def _restart(self, lane: int, error: EnvironmentFailed) -> None:
        """Go on in a new environment after the first failure of one; its episode is cut. Raises the second failure."""
        if lane in self.restarted:
            raise error
        self.restarted.add(lane)
        which = f"environment {lane}" if self.num_envs > 1 else "the environment"
        warnings.warn(f"{which} failed at step {self.step:,} ({error}) and was started anew", stacklevel=2)
        self._begin_episodes([lane])

    def env_state(self) -> list[dict[str, Any] | None]:
        """Return the states of the environments; None where one has none to give, or fails again, or the run is to stop.

        Where one fails for the first time, it is started anew.
        """
        assert self.env
        if self.stopping:
            self.env.patience = min(self.env.patience, STOP_PATIENCE)
        states = self.env.get_state(dict.fromkeys(range(self.num_envs)))
        for lane, answer in [*states.items()]:
            if isinstance(answer, EnvironmentFailed) and not self.stopping:
                with contextlib.suppress(EnvironmentFailed):
                    self._restart(lane, answer)
                    states |= self.env.get_state({lane: None})
        return [None if isinstance(state, EnvironmentFailed) else state for state in states.values()]

    # ---- training --------------------------------------------------------------------------------------------------

    def advance(self) -> list[dict[str, float]]:
        """Take an agent step in every environment: act, learn while they step, store what they gave.

        Return metrics of the games that ended. Raises EnvironmentFailed where an environment fails for the second time.
        """
        self.step += self.num_envs
        started = time.perf_counter()
        games = self._advance()
        self.account.phase.seconds += time.perf_counter() - started
        self.account.phase.steps += self.num_envs
        return games

    def _advance(self) -> list[dict[str, float]]:
        assert self.env
        actions = self.agent.act(self._observed())
        self.env.step_async(dict(enumerate(chosen(actions))))
        for step in range(self.step - self.num_envs + 1, self.step + 1):
            self._learn(step)
        answers = self.env.step_wait()
        steps = {lane: answer for lane, answer in answers.items() if not isinstance(answer, EnvironmentFailed)}
        games = self._store(actions, steps) if steps else []
        for lane in answers.keys() - steps.keys():
            self._restart(lane, answers[lane])
        return games

    def _learns(self, step: int) -> bool:
        """Tell whether updates are due at agent step `step`, and there is a batch to learn from."""
        agent = self.config.agent
        due = step >= agent.learning_starts and step % agent.update_every == 0
        return due and len(self.replay) >= self.batch_size

    def _learn(self, step: int) -> None:
        """Make the updates of agent step `step`, if any are due."""
        if self._learns(step):
            if self.account.phase.name == "fill":
                self.account.enter("embeddings" if self.frozen else "images", self.frozen)
            for _ in range(self.config.seer.replay_ratio if self.frozen else 1):
                self.update()

    def _store(self, actions: torch.Tensor, steps: dict[int, Step]) -> list[dict[str, float]]:
        """Store the steps of these environments; return metrics of the games that ended."""
        lanes = list(steps)
        obs, rewards, terminated, truncated, infos, first = zip(*steps.values(), strict=True)
        self.replay.add(actions[lanes], rewards, terminated, truncated, stack(obs), lanes)
        if ended := [lane for lane, one in steps.items() if one.terminated or one.truncated]:
            self.replay.begin(stack([one for one in first if one is not None]), ended)
        games = [info["episode"] for info in infos if "episode" in info]
        for _ in lanes:
            self.account.count(self.costs.act(self.frozen))
        self.scores = [*self.scores, *(float(game["r"]) for game in games)][-GAMES:]
        return [{"charts/episodic_return": float(game["r"]), "charts/episodic_length": game["l"]} for game in games]

    def _observed(self) -> Obs:
        """Return what to act on, where the agent is."""
        return each(lambda x: x.to(self.device), self.replay.observation)

    def update(self) -> None:
        """Learn from a batch of the replay, of images or of embeddings."""
        first = self.config.replay.priority_beta
        batch = self.replay.sample(self.batch_size, first + (1 - first) * self.step / self.config.steps).to(self.device)
        metrics, errors = self.agent.update(batch)
        if self.replay.exponent:
            self.replay.update_priorities(batch.index, errors)
        self.losses |= metrics  # some are not of every update
        self.account.count(self.costs.update(self.frozen))

    @property
    def compiles_now(self) -> bool:
        """Tell whether the losses are to be compiled now: before the first update on images, and on embeddings."""
        if not self.compiles or self.compiled_for is self.frozen:
            return False
        return any(self._learns(step) for step in range(self.step + 1, self.step + self.num_envs + 1))

    def compile(self) -> float:
        """Compile the losses for what the replay now holds; return the seconds. The run goes on without where that fails."""
        started, first, self.compiled_for = time.perf_counter(), self.compiled_for is None, self.frozen
        try:
            if first:  # not before: PyTorch loads its compiler for a second or more
                compile_losses(self.agent)
            rehearse_losses(self.agent, each(lambda x: x[:1], self._observed()), self.batch_size)
        except KeyboardInterrupt:  # how to stop a compiler
            self.check_stop()
            raise
        except Exception as error:  # of many kinds, by the compiler
            self.compiles = False
            uncompile_losses(self.agent)
            why = str(error).strip().partition("\n")[0]
            warnings.warn(f"compiling the update failed ({why}): the run goes on without, more slowly", stacklevel=2)
        return time.perf_counter() - started

    @property
    def measures(self) -> bool:
        """Tell whether what an automatic freeze depends on is to be measured now."""
        when, learning = self.when, self.account.phase.name == "images"
        return isinstance(when, WhenConverged) and learning and when.measures(self.step)

    def measure_convergence(self) -> dict[str, float]:
        """Measure what an automatic freeze depends on; return the signals."""
        when = self.when
        assert isinstance(when, WhenConverged)
        scored = progress(self.scores, self.random_scores)
        signals = asdict(when.monitor.measure(self.agent, self.replay, self.step, scored))
        self.account.count(self.costs.freeze(ENCODED // self.costs.copies))
        return {f"seer/{name}": value for name, value in signals.items() if name != "step"}

    def freeze(self) -> None:
        """Freeze the encoder, and turn the replay's images into embeddings. A stop in it leaves agent and replay useless."""
        self.measure()
        seer, size = self.config.seer, self.replay.size
        z = output_shape(self.agent.lower, self.agent.obs_shape, torch.uint8)
        numbers = sum(map(math.prod, z.values())) if isinstance(z, dict) else math.prod(z)
        fitted = examples(seer.dtype, (numbers,), size, self.costs.views)
        self.account.count(self.costs.freeze(size + fitted))
        started = time.perf_counter()
        freeze(self.agent, self.replay, build.every_step(self.config, self.eval_env), seer.copies, seer.dtype, self.check_stop)
        self.freeze_seconds = time.perf_counter() - started
        self.frozen_at, self.losses, self.when = self.step, {}, Never()
        if self.account.phase.name == "images":
            self.account.enter("embeddings", frozen=True)

    def evaluate(self) -> list[float]:
        """Play the evaluation of this step, and return its scores.

        Its environment is made anew where it fails; raises EnvironmentFailed where it fails again.
        """
        seed = (self.eval_seed + self.step) % 2**31
        try:
            scores = evaluate(self.agent, self.eval_env, self.config.eval.episodes, seed, self.device, self.check_stop)
        except EnvironmentFailed as error:
            warnings.warn(
                f"the evaluation's environment failed at step {self.step:,} ({error}): its games begin again", stacklevel=2
            )
            with contextlib.suppress(Exception):  # of many kinds, by the simulator
                self.eval_env.close()
            self.eval_env = build.make_env(self.config, training=False)
            scores = evaluate(self.agent, self.eval_env, self.config.eval.episodes, seed, self.device, self.check_stop)
        self.evaluations.append((self.step, scores))
        return scores

    def measure(self) -> None:
        """Look at what the replay and the processes hold."""
        self.account.measure(self.replay, self.pids())

    def metrics(self) -> dict[str, float]:
        """Return the latest losses, and what the replay holds and the run has spent."""
        losses = {f"losses/{name.removeprefix('losses/')}": float(value) for name, value in self.losses.items()}
        clipped = {} if math.isnan(self.replay.clipped) else {"seer/clipped": self.replay.clipped}
        return {**losses, **self.account.metrics(), **clipped}

    def require_finite(self) -> None:
        """Raise Diverged where a loss is no number any more."""
        for name, value in self.losses.items():
            if not math.isfinite(value):
                raise Diverged(f"{name} is {float(value)} at step {self.step:,}")

    def require_finite_weights(self) -> None:
        """Do the same for weights that are about to be written: a loss says nothing of those that its own update made."""
        self.require_finite()
        if (name := checkpoint.not_finite(self.agent)) is not None:
            raise Diverged(f"{name} is no number any more at step {self.step:,}")

    # ---- its state, for checkpoints ----------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Return the whole run but for the replay's records and the environment."""
        progress = {name: getattr(self, name) for name in PROGRESS} | {"flops": self.account.operations}
        return {
            "settings": to_toml(self.config),
            "agent": checkpoint.agent_state(self.agent),
            "replay": self.replay.get_state(),
            "run": progress,
            "phases": self.account.get_state(),
            "watch": self.when.monitor.get_state() if isinstance(self.when, WhenConverged) else {},
            "losses": {name: float(value) for name, value in self.losses.items()},
            "versions": {module.__name__: module.__version__ for module in (seer_rl, torch, np, gym)},
        }

    def _set_state(self, resumed: checkpoint.Checkpoint) -> None:
        """Go on from a checkpoint. Raises ValueError if it is of other settings, or of none that work."""
        try:
            frozen = resumed.state["run"]["frozen_at"] is not None
            if "settings" in resumed.state:  # 0.1.0 wrote none
                check_same(resumed.state["settings"], self.config, resumed.step, frozen)
            self._restore(resumed)
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
            raise ValueError(f"the checkpoint of step {resumed.step:,} is not one of this run: {error!r}") from error

    def _restore(self, resumed: checkpoint.Checkpoint) -> None:
        state = resumed.state
        for name in PROGRESS:
            setattr(self, name, state["run"][name])
        self.evaluations = [(step, scores) for step, scores in self.evaluations]
        self.account.set_state(state["phases"], state["run"]["flops"])
        self.losses = state["losses"]
        self.saved = resumed.step
        checkpoint.set_agent_state(self.agent, state["agent"])
        if self.frozen:
            self.when = Never()
        elif isinstance(self.when, WhenConverged):
            self.when.monitor.set_state(state["watch"])
        if self.frozen and (copies := state["replay"]["copies"]) != self.costs.copies:  # an earlier version stored others
            self.costs = replace(self.costs, copies=copies, views=self.costs.views - self.costs.copies + copies)
            self.account.costs = self.costs
        fn = embedder(self.agent, self.costs.copies, self.check_stop) if self.frozen else None

        def pieces(kind: str) -> Iterator[bytes]:
            count = sum(name.startswith(f"{kind}/") for name in resumed.blobs)
            return (resumed.piece(f"{kind}/{i}") for i in range(count))

        longest, books = build.every_step(self.config, self.eval_env), {kind: pieces(kind) for kind in ("steps", "priorities")}
        self.replay.set_state(state["replay"], pieces("replay"), books, fn, longest)
        self.resumed = replace(resumed, state={name: state[name] for name in ("env", "written")})  # the rest is copied


def _require(answers: dict[int, Any]) -> dict[int, Any]:
    """Return what environments answered. Raises EnvironmentFailed where one fails."""
    for answer in answers.values():
        if isinstance(answer, EnvironmentFailed):
            raise answer
    return answers
