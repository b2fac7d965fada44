"""The training loop: in which order things happen, and who hears of them."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from seer_rl import outside
from seer_rl.envs.subprocess import EnvironmentFailed
from seer_rl.replay.observation import Unfit
from seer_rl.text import refusal
from seer_rl.training import build, checkpoint, rundir
from seer_rl.training.config import TrainConfig
from seer_rl.training.events import Done, Event, Fault, Metrics
from seer_rl.training.logger import Logger
from seer_rl.training.run import Diverged, Run, Stopped
from seer_rl.training.saver import Saver, way_back

LOOK_EVERY = 20  # agent steps between looks at losses, replay and memory
LOG_EVERY = 1000  # agent steps between rows of losses, speed and memory

Listener = Callable[[Run, Event | Metrics], None]


def events(run: Run) -> Iterator[Event | Metrics]:
    """Train `run` from its present step to its last, and say what happens. Whoever listens may write, show, or end it here.

    Raises EnvironmentFailed where an environment fails for the second time, and Diverged where learning has broken down.
    """
    config = run.config
    yield Event.TRAINING
    run.begin()
    run.measure()
    yield from evaluating(run)  # if a resumed run was stopped in an evaluation
    if run.step == 0 and config.analysis.every:
        yield Event.SNAPSHOT
    while not run.ends:
        if run.measures:
            yield from playing_at_random(run)
            yield Metrics(run.measure_convergence())
        if run.when.due(run.step):
            yield from freezing(run)
        if run.compiles_now:
            yield from compiling(run)
        yield from map(Metrics, run.advance())
        if run.passed(LOOK_EVERY) or run.ends:
            run.require_finite()
            run.measure()
        if run.passed(LOG_EVERY) or run.ends:
            yield Metrics(run.metrics())
            yield Metrics(run.account.clock(), clock=True)
        if config.analysis.every and run.passed(config.analysis.every):
            yield Event.SNAPSHOT
        yield from evaluating(run)
        if run.passed(config.checkpoint_every) and not run.ends:
            yield Event.SAVING
            yield Event.TRAINING
        yield Event.STEPPED


def playing_at_random(run: Run) -> Iterator[Event | Metrics]:
    """Play a random player's games, unless that was done: when they are first needed, so that training begins at once."""
    if not run.random_scores:
        yield Event.RANDOM_GAMES
        yield Metrics({"eval/random_return": float(np.mean(run.play_at_random()))})
        yield Event.TRAINING


def compiling(run: Run) -> Iterator[Event | Metrics]:
    """Compile the losses for what the replay now holds."""
    yield Event.COMPILING
    yield Metrics({"charts/compile_seconds": run.compile()}, clock=True)
    yield Event.TRAINING


def freezing(run: Run) -> Iterator[Event | Metrics]:
    """Freeze; a checkpoint comes before, since a stop in it leaves nothing to go on from."""
    if run.saved != run.step:
        yield Event.SAVING
    yield Event.FREEZING
    run.freeze()
    yield Metrics({"seer/freeze_step": run.step})
    yield Metrics({"seer/freeze_seconds": run.freeze_seconds}, clock=True)
    yield Event.TRAINING


def evaluating(run: Run) -> Iterator[Event | Metrics]:
    """Evaluate, where that is due and was not done yet."""
    done = run.evaluations[-1][0] if run.evaluations else 0
    if run.step == done or not (run.passed(run.config.eval.every) or run.ends):
        return
    yield from playing_at_random(run)
    yield Event.EVALUATING
    run.require_finite_weights()
    scores = run.evaluate()
    paper, true = run.account.operations
    yield Metrics({"eval/return": float(np.mean(scores)), "eval/return_std": float(np.std(scores)),
                   "compute/flops": paper, "compute/true_operations": true})  # fmt: skip
    yield Event.EVALUATED
    yield Event.TRAINING


def train(run: Run, *listeners: Listener) -> None:
    """Train to the end, writing metrics, agent and checkpoints to the run directory; the listeners hear of every event.

    Raises Stopped once `run.stopping` is set, when a checkpoint holds everything; Fault where the run cannot go on.
    """
    held = claim(run)
    with contextlib.closing(run):
        try:
            checkpoint.save_config(run.run_dir, replace(run.config, run_dir=run.run_dir))
            written = {name: bytes(data) for name, data in run.resumed.state["written"].items()} if run.resumed else None
            with Logger(run.run_dir, run.step, written) as logger:
                tell = _told(run, logger, listeners)
                _train(run, tell)
                if run.config.keep_last and run.saved != run.step:
                    tell(Event.SAVING)
                logger.sync()
            rundir.write_ended(run.run_dir, run.step)
        except Unfit as error:
            raise Fault(f"{error}, at step {run.step:,}; {way_back(run)}") from error
        except Diverged as error:
            raise Fault(f"{error}; {way_back(run)}") from error
        except OSError as error:
            raise Fault(f"the system refused at step {run.step:,} ({refusal(error)}); {way_back(run)}") from error
        except Exception as error:
            if isinstance(error, Stopped | Fault) or not outside.place(error):
                raise
            raise Fault(f"code of yours failed at step {run.step:,}: {outside.told(error)}; {way_back(run)}") from error
        for listener in listeners:
            listener(run, Event.TIDYING)
        checkpoint.tidy(run.run_dir, keep=int(run.config.keep_last))
        rundir.unlock(run.run_dir, held)


def _told(run: Run, logger: Logger, listeners: tuple[Listener, ...]) -> Callable[[Event | Metrics], None]:
    """Return what tells everyone of an event: first it is shown, then written; after a step the run may stop."""
    saver = Saver(run, logger)

    def tell(event: Event | Metrics) -> None:
        if isinstance(event, Metrics):
            logger.log(run.step, event.values, event.clock)
        for listener in listeners:
            listener(run, event)
        saver(run, event)
        if event is Event.STEPPED:
            run.check_stop()

    return tell


def _train(run: Run, tell: Callable[[Event | Metrics], None]) -> None:
    """Go through the events; save at a stop, and where the environment fails, as far as there is something to save."""
    event: Event | Metrics = Event.TRAINING
    try:
        for event in events(run):
            tell(event)
    except Stopped:
        if event is not Event.FREEZING and run.env:  # before a freeze there is a checkpoint; before the first episode, nothing
            tell(Event.SAVING)
        raise
    except EnvironmentFailed as error:
        if run.step not in (0, run.saved):  # so that only an episode is lost
            tell(Event.SAVING)
        again = " again" if run.restarted else ""
        raise Fault(f"the environment failed{again} at step {run.step:,} ({error}); {way_back(run)}") from error


def claim(run: Run) -> BinaryIO:
    """Make the run directory this run's own, until the run is closed; return the file that locks it.

    Raises ValueError if it is another run's, Busy if another process is training in it.
    """
    if run.held:
        return run.held
    while not run.again:
        run.run_dir.parent.mkdir(parents=True, exist_ok=True)  # a link to nowhere is refused here
        try:
            run.run_dir.mkdir()
            break
        except FileExistsError:
            if run.config.run_dir:
                raise ValueError(f"{run.run_dir} exists already: name another --run-dir, or remove it") from None
            run.run_dir = build.default_run_dir(run.config)  # another run, begun in the same second, was faster
    run.held = rundir.lock(run.run_dir)
    return run.held


def resume(run_dir: Path, say: Callable[[str], None], steps: int | None = None) -> Run:
    """Return the run in `run_dir` as of its newest whole checkpoint, ready to go on; the directory is then its own.

    say: hears of anything unusual. steps: how long it shall be from now on, if not as long as its settings say. Raises Done if
    it has ended, ValueError if there is no run or it cannot go on with these settings, Busy if another process is at it.
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
    run.held = held
    return run
