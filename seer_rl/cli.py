"""What the commands share: reading a command line, driving a run to its end, saying in one sentence what went wrong."""

import argparse
import contextlib
import io
import itertools
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import tyro

from seer_rl import files, plots, train
from seer_rl.config import AGENTS, TrainConfig
from seer_rl.console import Display, summary
from seer_rl.envs import FAMILIES
from seer_rl.presets import PRESETS, configure
from seer_rl.rundir import PICTURE
from seer_rl.terminal import Screen, quoted

TRAIN_HELP = f"""Train an agent; with --seer.freeze-step, freeze its encoder then and go on with embeddings.

  seer train atari/alien                                   data-efficient Rainbow, 100,000 steps, never frozen
  seer train atari/alien --seer.freeze-step 50000          the same with SEER
  seer train atari/alien --preset paper                    the paper's figure 3: 500,000 steps, its T_f for this game
  seer train atari/alien --preset paper-memory             its figure 4: the same in 0.07 GB of replay
  seer train atari/alien --preset paper --seer.freeze-step None        the paper's baseline
  seer train dmc/walker-walk --transfer runs/STAND         begin with another run's network, its encoder frozen from the start
  seer train atari/pong --agent dqn --replay.memory 500MB  another agent; memory in bytes, everything counted

--agent {{{",".join(AGENTS)}}} and --preset {{{",".join(PRESETS)}}} choose what the settings below start from."""


class Mistake(Exception):
    """Something the user can put right, said in one sentence."""


class Ended(Exception):
    """A run ended before its last step: a sentence, and the exit code."""


@contextlib.contextmanager
def mistakes() -> Any:
    """Errors of setting up are the user's to mend; those of training are ours, and keep their traceback."""
    try:
        yield
    except (ValueError, ImportError, MemoryError, OSError) as error:
        raise Mistake(str(error)) from error
    except RuntimeError as error:
        if "alloc" not in str(error) and "overflow" not in str(error):
            raise
        raise Mistake("there is not enough memory for networks of this size: make --agent.hidden smaller") from error


def read(settings: Any, command: str, arguments: list[str], **options: Any) -> Any:
    """tyro's answer to a command line, with its boxes of errors turned into a sentence."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(settings, prog=f"seer {command}", args=arguments, **options)
    except SystemExit as end:
        if not end.code:
            raise
        inside = [line.strip("│ ") for line in said.getvalue().splitlines()[1:]]  # below the title; between rules
        below = itertools.dropwhile(lambda line: not line.strip("─-"), inside)
        sentence = " ".join(itertools.takewhile(lambda line: line.strip("─-"), below))
        raise Mistake(f"{sentence.replace('Error parsing', 'cannot read')} (seer {command} --help)") from None


def writable(output: Path, *suffixes: str) -> Path:
    """Give `output` back. Raises ValueError, before any work is done, where no file of such a name can be put."""
    if suffixes and output.suffix.lower() not in suffixes:
        raise ValueError(f"{output} must end in {' or '.join(suffixes)}")
    if not output.absolute().parent.is_dir():
        raise ValueError(f"there is no directory {output.parent}")
    if output.exists() and not output.is_file():
        raise ValueError(f"{output} is {'a directory' if output.is_dir() else 'no regular file'}: name a file")
    return output


def parse(arguments: list[str]) -> TrainConfig:
    """The settings that a command line asks for: those of the agent and the preset, then what it changes."""
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    chooser.add_argument("--agent")
    chooser.add_argument("--preset")
    try:
        names, rest = chooser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise Mistake(f"{error} (seer train --help)") from None
    for kind, known in (("agent", list(AGENTS)), ("preset", list(PRESETS))):
        name = getattr(names, kind)
        if name is not None and name not in known:
            raise Mistake(f"there is no {kind} {name!r}: choose {' or '.join(known)}")

    def apply(config: TrainConfig) -> TrainConfig:
        default = replace(config, env=config.env or tyro.MISSING)
        chosen: TrainConfig = read(
            tyro.conf.AvoidSubcommands[TrainConfig], "train", rest, description=TRAIN_HELP, default=default
        )
        return chosen

    # The defaults, and with the agent its settings, depend on the environment, which only tyro can tell from the settings'
    # values; and on --transfer. So a guess comes first, and is corrected.
    before = dict(zip(rest, ["", *rest], strict=False))
    named = [word for word in rest if word.startswith(tuple(f"{family}/" for family in FAMILIES))]
    guess = min(named, key=lambda word: before[word].startswith("--") and "=" not in before[word], default="")
    with mistakes():
        start = configure(guess, names.agent, names.preset)
    asked = apply(start)
    with mistakes():
        config = configure(asked.env, names.agent, names.preset, asked.transfer.source is not None)
    return apply(config)


def drive(run: train.Run, console: Screen, display: Display) -> None:
    """Train to the end and say what it came to; or stop with a checkpoint at Ctrl-C, SIGTERM or SIGHUP (a closed terminal)."""
    config, say = run.config, console.say
    threads = torch.get_num_threads()
    begun = f", going on from step {run.step:,}" if run.step else ""
    with mistakes():
        run.claim()
    say(f"{run.run_dir}: {config.env}, seed {config.seed}, {run.device}, {threads} thread{'s' if threads > 1 else ''}{begun}")
    with warnings.catch_warnings(), display, stopping(run) as asked:
        warnings.showwarning = lambda message, *_, **__: say(f"note: {message}")
        try:
            run.train(display)
        except train.Stopped:
            at = f"stopped at step {run.saved:,}" if run.saved is not None else "stopped before the first step"
            raise Ended(f"{at}: go on with: seer resume {quoted(run.run_dir)}", 128 + asked[0]) from None
        except train.Fault as fault:
            raise Ended(str(fault), 1) from fault
    summary(run, console)
    try:
        plots.curves([run.run_dir], run.run_dir / PICTURE)
        say(f"curves: {run.run_dir / PICTURE}")
    except (ImportError, ValueError, OSError) as error:  # the run has ended well, whatever befalls its picture
        say(f"note: {error}")
    say(f"again: seer eval {quoted(run.run_dir)}   film: seer play {quoted(run.run_dir)} --video out.mp4")


@contextlib.contextmanager
def filming(video: Path, frames_per_second: float) -> Iterator[Callable[[Any], None]]:
    """Write a film, frame by frame [H, W, 3] uint8; the file appears once it is whole. Needs the extra [video]."""
    with contextlib.ExitStack() as open_until_the_end:
        with mistakes():
            writable(video, ".mp4")
            try:
                import imageio.v2 as imageio
            except ImportError as error:
                raise ImportError("videos need the extra [video]: pip install 'seer-rl[video]'") from error
            part = open_until_the_end.enter_context(files.beside(video))
            options: dict[str, Any] = {"fps": frames_per_second, "macro_block_size": 2, "quality": 8}
            writer = imageio.get_writer(part, **options)
        open_until_the_end.callback(writer.close)
        take: Callable[[Any], None] = writer.append_data
        yield take


@contextlib.contextmanager
def stopping(run: train.Run) -> Iterator[list[int]]:
    """Let Ctrl-C, SIGTERM and SIGHUP stop the run with a checkpoint; gives the signals that came."""

    def stop() -> None:
        run.stopping = True
        if run.doing == train.COMPILING:  # which looks at nothing for a long time
            raise KeyboardInterrupt

    with interruptible(stop) as asked:
        yield asked


@contextlib.contextmanager
def interruptible(tell: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """Take the first Ctrl-C, SIGTERM or SIGHUP as a request: `tell` is called, its number is in what this gives.

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
