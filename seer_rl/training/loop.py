"""The training loop: the only file that joins agent, environment, replay and SEER."""

import contextlib
import ctypes
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import gymnasium as gym
import numpy as np
import psutil
import torch
from numpy.typing import NDArray

import seer_rl
from seer_rl import envs
from seer_rl.agents.base import Agent
from seer_rl.agents.networks import output_shape
from seer_rl.convergence import ENCODED, EVERY, GAMES, ConvergenceMonitor, converged, progress
from seer_rl.envs.subprocess import EnvironmentFailed, SubprocessEnv
from seer_rl.replay.codec import examples
from seer_rl.replay.replay import Unfit
from seer_rl.seer import embedder, freeze
from seer_rl.text import quoted
from seer_rl.training import build, checkpoint, rundir
from seer_rl.training.compile import compile_losses, rehearse_losses, uncompile_losses
from seer_rl.training.config import TrainConfig, check, check_same, to_toml
from seer_rl.training.files import Bytes
from seer_rl.training.logger import Logger

FREEZING = "freezing: images become embeddings"
COMPILING = "compiling the update"
SAVING = "writing a checkpoint"
EVALUATING = "evaluating"
TIDYING = "removing the checkpoints"
PROGRESS = ("step", "frozen_at", "flops", "freeze_seconds", "scores", "random_scores", "evaluations")
STOP_PATIENCE = 15.0  # seconds that a run that is to stop waits for its environment's state
SHOW_EVERY = 20  # agent steps
LOG_EVERY = 1000  # agent steps between rows of losses, speed and memory


@dataclass
class Phase:
    """A stretch of the run: filling the replay, training on images, or training on embeddings. As of its latest step."""

    name: str
    operations: tuple[int, int]  # of one step and its share of an update: (paper, true)
    steps: int = 0
    seconds: float = 0.0  # of acting, storing and updating
    replay_steps: int = 0
    replay_capacity: int = 0
    replay_bytes: int = 0
    bytes_per_step: int = 0
    process_bytes: int = 0  # most of the process's memory seen so far

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds if self.steps and self.seconds else float("nan")


class Stopped(Exception):
    """Someone asked the run to stop, and it may."""


class Done(ValueError):
    """The run has ended: there is nothing left to do."""


class Fault(Exception):
    """Something that ends a run and is not its program's mistake, in a sentence."""


class Run:
    """One training. Building it refuses settings that cannot work and writes nothing; `train` does the rest."""

    def __init__(self, config: TrainConfig, resumed: checkpoint.Checkpoint | None = None, again: bool = False) -> None:
        """resumed: what to go on from. again: the run directory is that of a run, which may have left no checkpoint."""
        check(config)
        tune_cpu()
        self.config, self.resumed, self.again = config, resumed, again
        self.run_dir = config.run_dir or build.default_run_dir(config)
        if os.path.lexists(self.run_dir) and not again:
            if (step := checkpoint.newest(self.run_dir)) is not None:
                raise ValueError(f"{self.run_dir} holds a run at step {step:,}: go on with: seer resume {quoted(self.run_dir)}")
            raise ValueError(f"{self.run_dir} exists already: name another --run-dir, or remove it")
        if not again:
            rundir.require_place(self.run_dir)
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)  # initial weights; everything later has a generator of its own
        self.env_seed, self.eval_seed, self.replay_seed, agent_seed = (
            int(s) for s in np.random.SeedSequence(config.seed).generate_state(4) >> 1
        )
        self.device = build.choose_device(config.device)
        self.eval_env = build.make_env(config, training=False)  # `train` begins the training one, in a process of its own
        self.agent = build.make_agent(config, self.eval_env, agent_seed).to(self.device)
        if config.transfer.source and not resumed:
            build.receive(self.agent, config.transfer)
        self.replay = build.make_replay(config, self.eval_env, self.agent, self.replay_seed)
        self.costs = build.costs(self.agent, self.eval_env, config)
        self.compiles = config.compile and compile_losses(self.agent)
        build.require_batch(config, self.replay.capacity, envs.frames_in(self.eval_env), self.costs.batch_size[False])
        if config.seer.freeze_step is not None:  # too little memory for embeddings: say so now, not at T_f
            z = output_shape(self.agent.lower, self.agent.obs_shape, torch.uint8)
            embeddings = self.replay.capacity_for(config.seer.dtype, self.costs.copies, z)
            build.require_batch(config, embeddings, 1, self.costs.batch_size[True])

        self.monitor = ConvergenceMonitor(self.agent) if config.seer.freeze_step == "auto" else None

        # What follows is for whoever watches: `show` gets the run itself.
        self.env: SubprocessEnv | None = None
        self.step = 0
        self.frozen_at: int | None = None  # T_f, once it is past
        self.restarted = False  # the environment, after a failure
        self.phases = [self._phase("fill")]
        self.flops = (0, 0)  # so far: (paper, true)
        self.freeze_seconds = float("nan")
        self.scores: list[float] = []  # of the latest whole training games
        self.random_scores: list[float] = []
        self.evaluations: list[tuple[int, list[float]]] = []  # (step, scores)
        self.doing = ""  # what other than training is going on
        self.stopping = False  # set by whoever wants the run to stop: it does so soon, with a checkpoint
        self.saved: int | None = None  # step of the newest checkpoint
        self._lock: BinaryIO | None = None
        self._metrics: dict[str, Any] = {}  # the latest losses
        self._blobs: dict[str, str] = {}  # of the replay's segments, by name, as the newest checkpoint has them
        if resumed:
            self._set_state(resumed)

    def claim(self) -> BinaryIO:
        """Make the run directory this run's own, until the file that is returned is closed.

        Raises ValueError if it is another run's, Busy if another process is training in it.
        """
        if self._lock:
            return self._lock
        while not self.again:
            self.run_dir.parent.mkdir(parents=True, exist_ok=True)  # a link to nowhere is refused here
            try:
                self.run_dir.mkdir()
                break
            except FileExistsError:
                if self.config.run_dir:
                    raise ValueError(f"{self.run_dir} exists already: name another --run-dir, or remove it") from None
                self.run_dir = build.default_run_dir(self.config)  # another run, begun in the same second, was faster
        self._lock = rundir.lock(self.run_dir)
        return self._lock

    def train(self, show: "Callable[[Run], None]" = lambda _: None) -> None:
        """Train to the end, writing metrics, agent and checkpoints to the run directory; `show` is called often.

        Raises Stopped once `stopping` is set, when a checkpoint holds everything; Fault where the run cannot go on.
        """
        config = self.config
        held = self.claim()
        with contextlib.closing(self):
            try:
                checkpoint.save_config(self.run_dir, replace(config, run_dir=self.run_dir))
                written = {name: bytes(data) for name, data in self.resumed.state["written"].items()} if self.resumed else None
                with Logger(self.run_dir, self.step, written) as logger:
                    try:
                        self._begin(logger, show)
                        try:
                            self._loop(logger, show)
                        except Stopped:
                            if self.doing != FREEZING:  # before a freeze there is always a checkpoint
                                self._save(logger, show)
                            raise
                    except EnvironmentFailed as error:
                        if self.step not in (0, self.saved):  # so that only an episode is lost
                            self._save(logger, show)
                        again = " again" if self.restarted else ""
                        raise Fault(
                            f"the environment failed{again} at step {self.step:,} ({error}); {self._way_back()}"
                        ) from error
                    if config.keep_last and self.saved != self.step:
                        self._save(logger, show)
                    logger.sync()
                rundir.write_ended(self.run_dir, self.step)
            except Unfit as error:
                raise Fault(f"{error}, at step {self.step:,}; {self._way_back()}") from error
            except OSError as error:
                raise Fault(f"the system refused at step {self.step:,} ({error}); {self._way_back()}") from error
            self._say(TIDYING, show)
            checkpoint.tidy(self.run_dir, keep=int(config.keep_last))
            rundir.unlock(self.run_dir, held)

    def _begin(self, logger: Logger, show: "Callable[[Run], None]") -> None:
        config = self.config
        if self.resumed:
            state = self.resumed.state["env"]
            if state is None:  # it had failed when the checkpoint was written
                self._begin_episode()
            else:
                self.env = build.start_env(config)
                self.env.set_state(state)
            return
        self.env = build.start_env(config)
        self._say("a random player's games", show)
        self.random_scores = random_scores(self.eval_env, config.eval.episodes, self.eval_seed, self._check_stop)
        logger.log(0, {"eval/random_return": float(np.mean(self.random_scores))})
        self._say("", show)
        self.replay.begin(self.env.reset(self.env_seed))

    def _loop(self, logger: Logger, show: "Callable[[Run], None]") -> None:
        config = self.config
        self._compile(logger, show)
        self._evaluate_if_due(logger, show)  # the evaluation in which a resumed run was stopped
        if not self.step:
            self._snapshot_if_due()
        while self.step < config.steps:
            if not self.frozen and self._freeze_is_due(logger):
                if self.step != self.saved:
                    self._save(logger, show)
                self._say(FREEZING, show)
                self._freeze(logger)
                self._compile(logger, show)
                self._say("", show)
            self.step += 1

            started = time.perf_counter()
            self._step(logger)
            self.phases[-1].seconds += time.perf_counter() - started
            self.phases[-1].steps += 1

            last = self.step == config.steps
            if self.step % SHOW_EVERY == 0 or last:
                self._require_finite()
                self._measure()
                show(self)
            if self.step % LOG_EVERY == 0 or last:
                self._log(logger)
            self._snapshot_if_due()
            self._evaluate_if_due(logger, show)
            if self.step % config.checkpoint_every == 0 and not last:
                self._save(logger, show)
            self._check_stop()

    def close(self) -> None:
        """Free what the environments hold, and the run directory."""
        if self.env:
            self.env.close()
        self.eval_env.close()
        if self._lock:
            self._lock.close()
            self._lock = None

    def _check_stop(self) -> None:
        """Go on, unless someone wants the run to stop."""
        if self.stopping:
            raise Stopped

    @property
    def frozen(self) -> bool:
        """Whether T_f is past."""
        return self.frozen_at is not None

    @property
    def batch_size(self) -> int:
        """Transitions per update now."""
        return self.costs.batch_size[self.frozen]

    @property
    def updates_at_once(self) -> int:
        """Updates where one is due."""
        return self.config.seer.replay_ratio if self.frozen else 1

    def _step(self, logger: Logger) -> None:
        """Act, learn while the environment steps, and store what it gave."""
        assert self.env
        action = chosen(self.agent.act(self.replay.observation.to(self.device)))
        self.env.step_async(action)
        due = self.step >= self.config.agent.learning_starts and self.step % self.config.agent.update_every == 0
        if due and len(self.replay) >= self.batch_size:
            if self.phases[-1].name == "fill":
                self.phases.append(self._phase("embeddings" if self.frozen else "images"))
            for _ in range(self.updates_at_once):
                self._update()
        try:
            obs, reward, terminated, truncated, info = self.env.step_wait()
            first = self.env.reset() if terminated or truncated else None
        except EnvironmentFailed as error:
            self._restart(error)
            return
        self.replay.add(action, float(reward), terminated, truncated, obs)
        self._count(self.costs.act(self.frozen))
        if "episode" in info:
            score = float(info["episode"]["r"])
            self.scores = [*self.scores, score][-GAMES:]
            logger.log(self.step, {"charts/episodic_return": score, "charts/episodic_length": info["episode"]["l"]})
        if first is not None:
            self.replay.begin(first)

    def _restart(self, error: EnvironmentFailed) -> None:
        """Go on in a new environment after the first failure of one; the episode is cut. Raises the second failure."""
        assert self.env
        if self.restarted:
            raise error
        self.restarted = True
        warnings.warn(f"the environment failed at step {self.step:,} ({error}) and was started anew", stacklevel=2)
        self.env.close()
        self._begin_episode()

    def _begin_episode(self) -> None:
        """Go on in a new environment, at the beginning of an episode."""
        self.env = build.start_env(self.config)
        self.replay.begin(self.env.reset(self.env_seed + self.step))

    def _env_state(self) -> dict[str, Any] | None:
        """The state of the environment, which is started anew if it fails; None if it fails again, or the run is to stop."""
        assert self.env
        if self.stopping:
            self.env.patience = min(self.env.patience, STOP_PATIENCE)
        try:
            try:
                return self.env.get_state()
            except EnvironmentFailed as error:
                if self.stopping:
                    return None
                self._restart(error)
                return self.env.get_state()
        except EnvironmentFailed:
            return None

    def _update(self) -> None:
        first = self.config.replay.priority_beta
        batch = self.replay.sample(self.batch_size, first + (1 - first) * self.step / self.config.steps).to(self.device)
        metrics, errors = self.agent.update(batch)
        if self.replay.exponent:
            self.replay.update_priorities(batch.index, errors)
        self._metrics |= metrics  # some losses are not of every update
        self._count(self.costs.update(self.frozen))

    def _compile(self, logger: Logger, show: "Callable[[Run], None]") -> None:
        """Compile the losses for what the replay now holds; if that fails, the run goes on without."""
        if not self.compiles:
            return
        self._say(COMPILING, show)
        started = time.perf_counter()
        try:
            rehearse_losses(self.agent, self.replay.observation.to(self.device), self.batch_size)
        except KeyboardInterrupt:  # how to stop a compiler
            self._check_stop()
            raise
        except Exception as error:  # of many kinds, by the compiler
            self.compiles = False
            uncompile_losses(self.agent)
            why = str(error).strip().partition("\n")[0]
            warnings.warn(f"compiling the update failed ({why}): the run goes on without, more slowly", stacklevel=2)
        logger.log(self.step, {"charts/compile_seconds": time.perf_counter() - started}, clock=True)
        self._say("", show)

    def _freeze_is_due(self, logger: Logger) -> bool:
        """Whether T_f is now; measures what an automatic freeze depends on."""
        seer = self.config.seer
        if not self.monitor:
            return self.step == seer.freeze_step
        earliest, latest = seer.between(self.config.steps)
        if self.phases[-1].name != "images" or (self.step % EVERY and self.step != latest):
            return False
        history = self.monitor.history
        if not history or history[-1].step != self.step:  # else a resumed run has it already
            scored = progress(self.scores, self.random_scores)
            signals = asdict(self.monitor.measure(self.agent, self.replay, self.step, scored))
            self._count(self.costs.freeze(ENCODED // self.costs.copies))
            logger.log(self.step, {f"seer/{name}": value for name, value in signals.items() if name != "step"})
        return converged(history, earliest, latest)

    def _freeze(self, logger: Logger) -> None:
        self._measure()
        seer, size = self.config.seer, self.replay.size
        z = output_shape(self.agent.lower, self.agent.obs_shape, torch.uint8)
        fitted = examples(seer.dtype, z, size, self.costs.copies)
        self._count(self.costs.freeze(size + fitted))
        started = time.perf_counter()
        freeze(self.agent, self.replay, build.every_step(self.config, self.eval_env), seer.copies, seer.dtype, self._check_stop)
        self.freeze_seconds = time.perf_counter() - started
        self.frozen_at, self._metrics, self.monitor = self.step, {}, None
        if self.phases[-1].name == "images":
            self.phases.append(self._phase("embeddings"))
        logger.log(self.step, {"seer/freeze_step": self.step})
        logger.log(self.step, {"seer/freeze_seconds": self.freeze_seconds}, clock=True)

    def _evaluate_if_due(self, logger: Logger, show: "Callable[[Run], None]") -> None:
        config, done = self.config, self.evaluations[-1][0] if self.evaluations else 0
        if self.step == done or (self.step % config.eval.every and self.step != config.steps):
            return
        self._say(EVALUATING, show)
        self._require_finite_weights()
        scores = self._evaluate()
        self.evaluations.append((self.step, scores))
        paper, true = self.flops
        logger.log(self.step, {"eval/return": float(np.mean(scores)), "eval/return_std": float(np.std(scores)),
                               "compute/flops": paper, "compute/true_operations": true})  # fmt: skip
        checkpoint.save_agent(self.run_dir, self.agent, config, self.frozen)
        self._say("", show)

    def _evaluate(self) -> list[float]:
        """Scores of the evaluation at this step. Its environment is made anew where it fails; the second failure is raised."""
        seed = (self.eval_seed + self.step) % 2**31
        try:
            return evaluate(self.agent, self.eval_env, self.config.eval.episodes, seed, self.device, self._check_stop)
        except EnvironmentFailed as error:
            warnings.warn(
                f"the evaluation's environment failed at step {self.step:,} ({error}): its games begin again", stacklevel=2
            )
        with contextlib.suppress(Exception):  # of many kinds, by the simulator
            self.eval_env.close()
        self.eval_env = build.make_env(self.config, training=False)
        return evaluate(self.agent, self.eval_env, self.config.eval.episodes, seed, self.device, self._check_stop)

    def _snapshot_if_due(self) -> None:
        every = self.config.analysis.every
        if every and self.step % every == 0:
            self._require_finite_weights()
            checkpoint.save_snapshot(self.run_dir, self.step, self.agent, self.config, self.frozen)

    def _log(self, logger: Logger) -> None:
        phase, (paper, true) = self.phases[-1], self.flops
        logger.log(self.step, {name: float(value) for name, value in self._metrics.items()})
        logger.log(self.step, {"replay/steps": phase.replay_steps, "replay/capacity": phase.replay_capacity,
                               "replay/bytes": phase.replay_bytes, "replay/bytes_per_step": phase.bytes_per_step,
                               "compute/flops": paper, "compute/true_operations": true})  # fmt: skip
        seconds = sum(phase.seconds for phase in self.phases)
        if not math.isnan(self.replay.clipped):
            logger.log(self.step, {"seer/clipped": self.replay.clipped})
        clock = {"charts/seconds": seconds, "charts/process_bytes": phase.process_bytes}
        if not math.isnan(phase.steps_per_second):
            clock = {"charts/SPS": phase.steps_per_second} | clock
        logger.log(self.step, clock, clock=True)

    def _require_finite(self) -> None:
        """Raise Fault where learning has broken down; weights are only ever written after this has passed."""
        for name, value in self._metrics.items():
            if not math.isfinite(value):
                raise Fault(f"{name} is {float(value)} at step {self.step:,}; {self._way_back()}")

    def _require_finite_weights(self) -> None:
        """The same for what is about to be written: a loss says nothing of the weights that its own update made."""
        self._require_finite()
        if (name := checkpoint.not_finite(self.agent)) is not None:
            raise Fault(f"{name} is no number any more at step {self.step:,}; {self._way_back()}")

    def _way_back(self) -> str:
        if self.saved is None:
            return f"there is no checkpoint in {self.run_dir} yet"
        if self.saved == self.step:
            return f"everything up to it is saved: go on with: seer resume {quoted(self.run_dir)}"
        return f"the checkpoint of step {self.saved:,} in {self.run_dir} is from before it"

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def _save(self, logger: Logger, show: "Callable[[Run], None]") -> None:
        self._require_finite_weights()
        doing, self.doing = self.doing, SAVING
        show(self)
        env = self._env_state()  # first: where it fails, the replay's episode is cut
        segments, touched = self.replay.segments(), self.replay.touched()
        pieces: dict[str, Bytes | str] = {}
        for i, data in enumerate(segments):
            name = f"replay/{i}"
            pieces[name] = data if i in touched or name not in self._blobs else self._blobs[name]
        pieces |= {f"priorities/{i}": data for i, data in enumerate(self.replay.priorities())}
        try:
            self._blobs = checkpoint.save(self.run_dir, self.step, self._state(logger, env), pieces, self.config.keep)
        except OSError as error:
            self.replay.touch(touched)
            why = f"no checkpoint could be written at step {self.step:,} ({error.strerror})"
            raise Fault(f"{why}; {self._way_back()}") from error
        self.saved = self.step
        self.doing = doing
        show(self)

    def _state(self, logger: Logger, env: dict[str, Any] | None) -> dict[str, Any]:
        """The whole run but for the replay's records. env: the state of its environment, as far as it has one."""
        return {
            "settings": to_toml(self.config),
            "agent": checkpoint.agent_state(self.agent),
            "replay": self.replay.get_state(),
            "env": env,
            "run": {name: getattr(self, name) for name in PROGRESS},
            "phases": [asdict(phase) for phase in self.phases],
            "watch": self.monitor.get_state() if self.monitor else {},
            "losses": {name: float(value) for name, value in self._metrics.items()},
            "written": {name: np.frombuffer(data, np.uint8) for name, data in logger.written().items()},
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
        self.flops = (self.flops[0], self.flops[1])
        self.phases = [Phase(**phase) for phase in state["phases"]]
        self._metrics = state["losses"]
        self.saved = resumed.step
        checkpoint.set_agent_state(self.agent, state["agent"])
        if self.frozen:
            self.monitor = None
        elif self.monitor:
            self.monitor.set_state(state["watch"])
        fn = embedder(self.agent, self.costs.copies, self._check_stop) if self.frozen else None

        def pieces(kind: str) -> Iterator[bytes]:
            count = sum(name.startswith(f"{kind}/") for name in resumed.blobs)
            return (resumed.piece(f"{kind}/{i}") for i in range(count))

        longest = build.every_step(self.config, self.eval_env)
        self.replay.set_state(state["replay"], pieces("replay"), pieces("priorities"), fn, longest)
        self._blobs = resumed.blobs
        self.resumed = replace(resumed, state={name: state[name] for name in ("env", "written")})  # the rest is copied

    def _phase(self, name: str) -> Phase:
        act = self.costs.act(self.frozen)
        update = self.costs.update(self.frozen) if name != "fill" else (0, 0)
        times, every = self.updates_at_once, self.config.agent.update_every
        return Phase(name, (act[0] + times * update[0] // every, act[1] + times * update[1] // every))

    def _measure(self) -> None:
        phase, replay = self.phases[-1], self.replay
        phase.replay_steps, phase.replay_capacity, phase.replay_bytes = replay.size, replay.capacity, replay.nbytes
        phase.bytes_per_step = replay.bytes_per_step
        with contextlib.suppress(psutil.Error):  # the environment's may have been killed
            phase.process_bytes = max(phase.process_bytes, sum(p.memory_info().rss for p in self.processes()))

    def processes(self) -> list[psutil.Process]:
        """This one, and the environment's while there is one. Raises psutil.NoSuchProcess where that is gone."""
        return [psutil.Process(), *([psutil.Process(self.env.pid)] if self.env else [])]

    def _count(self, operations: tuple[int, int]) -> None:
        self.flops = (self.flops[0] + operations[0], self.flops[1] + operations[1])

    def _say(self, doing: str, show: "Callable[[Run], None]") -> None:
        self.doing = doing
        show(self)


def resume(run_dir: Path, say: Callable[[str], None], steps: int | None = None) -> Run:
    """The run in `run_dir` as of its newest whole checkpoint, ready to go on; `say` hears of anything unusual.

    steps: how long it shall be from now on, if not as long as its settings say. Raises Done if it has ended, ValueError if
    there is no run or its settings are not those of its checkpoint, Busy if another process is at it.
    """

    def settings() -> TrainConfig:
        config = replace(checkpoint.load_config(run_dir), run_dir=run_dir)
        return config if steps is None else replace(config, steps=steps)

    config = settings()
    if rundir.ended_at(run_dir) == config.steps and not os.path.lexists(run_dir / checkpoint.CHECKPOINTS):
        raise Done(f"{run_dir} has ended, at step {config.steps:,}: there is nothing left to do")
    held = rundir.lock(run_dir)  # before reading: a process that writes checkpoints also removes old ones
    try:
        config, ended = settings(), rundir.ended_at(run_dir)  # once more: it may have ended while we waited for the lock
        if ended == config.steps:
            checkpoint.tidy(run_dir, keep=int(config.keep_last))  # it was killed while it did so itself
            rundir.unlock(run_dir, held)
            raise Done(f"{run_dir} has ended, at step {ended:,}: there is nothing left to do")
        found = checkpoint.load(run_dir, say)
        if ended is not None and config.steps < ended:
            raise ValueError(f"{run_dir} ended at step {ended:,}, beyond step {config.steps:,}: ask for more steps")
        if ended is not None and (found is None or found.step < ended):
            raise ValueError(
                f"{run_dir} ended at step {ended:,} and kept no checkpoint from which it could go on to step {config.steps:,}: "
                "--keep-last keeps one; train a new run"
            )
        run = Run(config, found, again=True)
        if not found:
            say(f"{run_dir} has no checkpoint yet: it begins again")
            rundir.set_aside(run_dir, say)
    except BaseException:
        held.close()
        raise
    run._lock = held
    return run


def play(
    env: gym.Env[Any, Any],
    act: Callable[[torch.Tensor], Any],
    episodes: int,
    seed: int,
    check_stop: Callable[[], None] = lambda: None,
) -> list[float]:
    """Scores of `episodes` whole games in which `act` gives an action for each observation [1, C, H, W] uint8.

    check_stop: called before each step; it may raise to end the games. Raises EnvironmentFailed if the environment does.
    """
    scores: list[float] = []
    obs, _ = _ask(env.reset, seed=seed)
    while len(scores) < episodes:
        check_stop()
        obs, _, terminated, truncated, info = _ask(env.step, act(torch.from_numpy(obs)[None]))
        if terminated or truncated:
            scores.append(float(info["episode"]["r"]))
            obs, _ = _ask(env.reset)
    return scores


def chosen(actions: torch.Tensor) -> int | NDArray[np.float32]:
    """Give the only one of an agent's actions [1] or [1, A] as an environment takes it."""
    if not actions.is_floating_point():
        return int(actions[0])
    action: NDArray[np.float32] = actions[0].numpy(force=True)
    return action


def _ask(method: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What an environment answers. Raises EnvironmentFailed for its exceptions, which are of many kinds, by the simulator."""
    try:
        return method(*args, **options)
    except Exception as error:
        raise EnvironmentFailed(repr(error)) from error


def evaluate(
    agent: Agent,
    env: gym.Env[Any, Any],
    episodes: int,
    seed: int,
    device: torch.device,
    check_stop: Callable[[], None] = lambda: None,
) -> list[float]:
    """Scores of the agent in evaluation mode. Its training is not disturbed: the random numbers it then draws are the same."""
    state = agent.generator.get_state()
    agent.generator.manual_seed(seed)
    agent.eval()
    try:
        return play(env, lambda obs: chosen(agent.act(obs.to(device))), episodes, seed, check_stop)
    finally:
        agent.train()
        agent.generator.set_state(state)


def random_scores(
    env: gym.Env[Any, Any], episodes: int, seed: int, check_stop: Callable[[], None] = lambda: None
) -> list[float]:
    """Scores of a player that chooses actions uniformly."""
    env.action_space.seed(seed)
    return play(env, lambda _: env.action_space.sample(), episodes, seed, check_stop)


def tune_cpu() -> None:
    """Two settings of the process that a small update depends on. To be called before PyTorch starts its threads.

    Adam's moments of weights that no longer get gradients (inputs that are always zero) decay into denormal numbers, with which
    processors are slow: they are flushed to zero. And glibc keeps freed memory for the next update, instead of giving it back
    and fetching fresh pages for every tensor.
    """
    torch.set_flush_denormal(True)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, its maximum
            libc.mallopt(-1, 256 << 20)  # M_TRIM_THRESHOLD
