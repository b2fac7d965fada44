"""Takes a run from its beginning, or from where it was stopped, to its end."""

import contextlib
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from seer_rl.commands.console import Screen
from seer_rl.commands.display import Display, summary
from seer_rl.commands.errors import Ended, mistakes
from seer_rl.experiments import curves
from seer_rl.outside import again
from seer_rl.text import quoted, refusal
from seer_rl.training import loop
from seer_rl.training.events import Event, Fault, Metrics
from seer_rl.training.run import Run, Stopped
from seer_rl.training.rundir import PICTURE
from seer_rl.training.saver import way_back
from seer_rl.training.wandb import WeightsAndBiases


def drive(run: Run, console: Screen, display: Display) -> None:
    """Train to the end and say what it came to; or stop with a checkpoint at Ctrl-C, SIGTERM or SIGHUP (a closed terminal).

    Raises Mistake where the run directory cannot be used, Ended where the run was stopped or failed.
    """
    config, say = run.config, console.say
    threads = torch.get_num_threads()
    begun = f", going on from step {run.step:,}" if run.step else ""
    with mistakes():
        pages = [WeightsAndBiases()] if config.log == "wandb" else []
        loop.claim(run)
    say(f"{run.run_dir}: {config.env}, seed {config.seed}, {run.device}, {threads} thread{'s' if threads > 1 else ''}{begun}")
    with warnings.catch_warnings(), display, Stopping(run) as stopping, contextlib.ExitStack() as open_pages:
        for page in pages:
            open_pages.enter_context(page)
        warnings.showwarning = lambda message, *_, **__: say(f"note: {message}")
        open_pages.enter_context(_writers_fail_silently())
        try:
            loop.train(run, display, stopping, *pages)
        except Stopped:
            at = f"stopped at step {run.saved:,}" if run.saved is not None else "stopped before the first step"
            raise Ended(f"{at}: go on with: {again(f'seer resume {quoted(run.run_dir)}')}", 128 + stopping.asked[0]) from None
        except KeyboardInterrupt as error:  # the second: nothing was waited for
            raise Ended(f"stopped at once, at step {run.step:,}; {way_back(run)}", 130) from error
        except Fault as fault:
            raise Ended(str(fault), 1) from fault
    summary(run, console)
    try:
        curves.picture(run.run_dir)
        say(f"curves: {run.run_dir / PICTURE}")
    except (ImportError, ValueError, OSError) as error:  # the run has ended well, whatever befalls its picture
        say(f"note: {refusal(error) if isinstance(error, OSError) else error}")
    said = again(f"seer eval {quoted(run.run_dir)}"), again(f"seer play {quoted(run.run_dir)} --video out.mp4")
    say(f"again: {said[0]}   film: {said[1]}")


@contextlib.contextmanager
def _writers_fail_silently() -> Iterator[None]:
    """Print nothing where the system refuses what another thread writes: TensorBoard raises it again at its next number."""
    before = threading.excepthook
    threading.excepthook = lambda failed: None if isinstance(failed.exc_value, OSError) else before(failed)
    try:
        yield
    finally:
        threading.excepthook = before


class Stopping:
    """Lets Ctrl-C, SIGTERM and SIGHUP stop a run with a checkpoint; `asked` has the signals that came."""

    def __init__(self, run: Run) -> None:
        self._run, self._compiling = run, False
        self._signals = interruptible(self._stop)

    def __enter__(self) -> "Stopping":
        self.asked = self._signals.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._signals.__exit__(*error)

    def __call__(self, run: Run, event: Event | Metrics) -> None:
        """Note when the compiler is at work: it takes long and never asks whether to stop, so a signal has to interrupt it."""
        self._compiling = event is Event.COMPILING

    def _stop(self) -> None:
        self._run.stopping = True
        if self._compiling:
            raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible(tell: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """Take the first Ctrl-C, SIGTERM or SIGHUP as a request: call `tell`, and add its number to the list that this gives.

    A second Ctrl-C or SIGTERM acts as always. A second SIGHUP does nothing: a terminal that closes may send several. One that
    was ignored from the start, by nohup, stays ignored.
    """
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        asked.append(number)
        for name, handler in before.items():
            signal.signal(name, signal.SIG_IGN if name == signal.SIGHUP else handler)
        tell()

    heeded = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {name: signal.signal(name, ask) for name in heeded}
    try:
        yield asked
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
