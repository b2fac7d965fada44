"""The command line: `seer train | resume | eval | play | plot`. Mistakes are answered in one sentence and exit code 2."""

import argparse
import contextlib
import functools
import io
import itertools
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from rich.console import Console

from seer_rl import __version__, checkpoint, memory, plots, train
from seer_rl.config import AGENTS, TrainConfig
from seer_rl.console import Display, scores, summary
from seer_rl.presets import PRESETS, configure

USAGE = f"""seer {__version__}: reinforcement learning from pixels with stored embeddings

  seer train ENV [--agent {"|".join(AGENTS)}] [--preset {"|".join(PRESETS)}] [settings]   train, freeze, go on cheaper
  seer resume RUN                                                    go on with a run that was stopped or killed
  seer eval RUN [--episodes N]                                       play whole games and print their scores
  seer play RUN --video out.mp4                                      film the agent
  seer plot RUN [RUN ...] [--output curves.png]                      draw runs into one picture

`seer COMMAND --help` explains each. A first run of about five minutes: seer train --preset quick"""

TRAIN_HELP = f"""Train an agent; with --seer.freeze-step, freeze its encoder then and go on with embeddings.

  seer train atari/alien                                   data-efficient Rainbow, 100,000 steps, never frozen
  seer train atari/alien --seer.freeze-step 50000          the same with SEER
  seer train atari/alien --preset paper                    the paper's figure 3: 500,000 steps, its T_f for this game
  seer train atari/alien --preset paper-memory             its figure 4: the same in 0.07 GB of replay
  seer train atari/alien --preset paper --seer.freeze-step None        the paper's baseline
  seer train atari/pong --agent dqn --replay.memory 500MB  another agent; memory in bytes, everything counted

--agent {{{",".join(AGENTS)}}} and --preset {{{",".join(PRESETS)}}} choose what the settings below start from."""


class Mistake(Exception):
    """Something the user can put right, said in one sentence."""


class Ended(Exception):
    """A run ended before its last step: a sentence, and the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": train_,
        "resume": resume_,
        "eval": eval_,
        "play": play_,
        "plot": plot_,
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    try:
        if argv[0] not in commands:
            raise Mistake(f"there is no command {argv[0]!r}: choose {', '.join(commands)}")
        commands[argv[0]](argv[1:])
    except Mistake as mistake:
        print(f"seer: {mistake}", file=sys.stderr)
        return 2
    except Ended as end:
        print(f"seer: {end.args[0]}", file=sys.stderr)
        return int(end.args[1])
    except KeyboardInterrupt:
        print("seer: stopped", file=sys.stderr)
        return 130
    return 0


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
        inside = [line.strip("│ ") for line in said.getvalue().splitlines()[1:]]
        sentence = " ".join(itertools.takewhile(lambda line: line.strip("─"), inside))
        raise Mistake(f"{sentence.replace('Error parsing', 'cannot read')} (seer {command} --help)") from None


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

    # The defaults depend on the environment, which only tyro can tell from the settings' values.
    env = apply(configure("", names.agent, names.preset)).env
    with mistakes():
        config = configure(env, names.agent, names.preset)
    return apply(config)


def train_(arguments: list[str]) -> None:
    config = parse(arguments)
    console = Console()
    with mistakes():
        run = train.Run(memory.settle(config, functools.partial(console.print, highlight=False, soft_wrap=True)))
    drive(run, console)


def resume_(arguments: list[str]) -> None:
    def settings(run: tyro.conf.Positional[Path]) -> Path:
        """Go on with a run that was stopped or killed, from its newest checkpoint, exactly as if nothing had happened.

        Args:
            run: Run directory.
        """
        return run

    run_dir, console = read(settings, "resume", arguments), Console()
    with mistakes():
        run = train.resume(run_dir, lambda text: console.print(f"note: {text}", highlight=False, soft_wrap=True))
    drive(run, console)


def drive(run: train.Run, console: Console) -> None:
    """Train to the end and say what it came to; or stop with a checkpoint at Ctrl-C or SIGTERM."""
    config, say = run.config, functools.partial(console.print, highlight=False, soft_wrap=True)
    threads = torch.get_num_threads()
    begun = f", going on from step {run.step:,}" if run.step else ""
    with mistakes():
        run.claim()
    say(f"{run.run_dir}: {config.env}, seed {config.seed}, {run.device}, {threads} thread{'s' if threads > 1 else ''}{begun}")
    with warnings.catch_warnings(), Display(console) as display, stopping(run) as asked:
        warnings.showwarning = lambda message, *_, **__: say(f"note: {message}")
        try:
            run.train(display)
        except train.Stopped:
            at = f"stopped at step {run.saved:,}" if run.saved is not None else "stopped before the first step"
            raise Ended(f"{at}: go on with: seer resume {run.run_dir}", 128 + asked[0]) from None
        except train.Fault as fault:
            raise Ended(str(fault), 1) from fault
    summary(run, console)
    try:
        plots.curves([run.run_dir], run.run_dir / "curves.png")
        say(f"curves: {run.run_dir / 'curves.png'}")
    except ImportError as error:
        say(f"note: {error}")
    say(f"again: seer eval {run.run_dir}   film: seer play {run.run_dir} --video out.mp4")


@contextlib.contextmanager
def stopping(run: train.Run) -> Iterator[list[int]]:
    """Let Ctrl-C and SIGTERM stop the run, a second one at once; gives the signals that came."""
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        asked.append(number)
        run.stopping = True
        if run.doing == train.COMPILING:  # which looks at nothing for a long time
            raise KeyboardInterrupt
        for name, handler in before.items():
            signal.signal(name, handler)

    before = {name: signal.signal(name, ask) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def load(run_dir: Path, render_mode: str | None = None) -> tuple[TrainConfig, train.Agent, Any]:
    """Settings, agent and evaluation environment of a finished or running run."""
    with mistakes():
        config = checkpoint.load_config(run_dir)
        env = train.make_env(config, training=False, render_mode=render_mode)
        agent = train.make_agent(config, env, seed=0)
        checkpoint.load_agent(run_dir, agent, config)
    return config, agent, env


def eval_(arguments: list[str]) -> None:
    def settings(
        run: tyro.conf.Positional[Path], episodes: int = 10, seed: int = 0, device: str = "auto"
    ) -> tuple[Path, int, int, str]:
        """Play whole games without noise, clipping or life loss, and print their scores.

        Args:
            run: Run directory.
            episodes: Games.
            seed: Of the games.
            device: auto, cpu or cuda.
        """
        return run, episodes, seed, device

    run, episodes, seed, device_name = read(settings, "eval", arguments)
    if episodes < 1 or seed < 0:
        raise Mistake("--episodes must be at least 1 and --seed at least 0")
    _, agent, env = load(run)
    with mistakes():
        device = train.choose_device(device_name)
    results = train.evaluate(agent.to(device), env, episodes, seed, device)
    env.close()
    print(f"{scores(results)} over {episodes} games (median {np.median(results):,.1f}): {' '.join(f'{r:g}' for r in results)}")


class Filmed(gym.Wrapper[Any, Any, Any, Any]):
    """Hands a picture of every step to `keep`."""

    def __init__(self, env: gym.Env[Any, Any], keep: Callable[[Any], None]) -> None:
        super().__init__(env)
        self.keep = keep

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        self.keep(self.env.render())
        return result


def play_(arguments: list[str]) -> None:
    def settings(
        run: tyro.conf.Positional[Path],
        video: Annotated[Path, tyro.conf.arg(metavar="OUT.mp4")],
        episodes: int = 1,
        seed: int = 0,
    ) -> tuple[Path, Path, int, int]:
        """Film the agent playing whole games.

        Args:
            run: Run directory.
            video: File to write.
            episodes: Games.
            seed: Of the games.
        """
        return run, video, episodes, seed

    run, video, episodes, seed = read(settings, "play", arguments)
    if episodes < 1 or seed < 0:
        raise Mistake("--episodes must be at least 1 and --seed at least 0")
    with mistakes():
        if video.suffix != ".mp4":
            raise ValueError(f"{video} must end in .mp4")
        try:
            import imageio.v2 as imageio
        except ImportError as error:
            raise ImportError("videos need the extra [video]: pip install 'seer-rl[video]'") from error
        _, agent, env = load(run, render_mode="rgb_array")
        beside = video.with_name(f".{video.stem}.part.mp4")
        writer = imageio.get_writer(beside, fps=env.metadata["render_fps"], macro_block_size=2, quality=8)

    results = train.evaluate(agent, Filmed(env, writer.append_data), episodes, seed, torch.device("cpu"))
    writer.close()
    env.close()
    beside.replace(video)
    print(f"{video}: {episodes} game{'s' if episodes > 1 else ''}, {scores(results)}")


def plot_(arguments: list[str]) -> None:
    def settings(
        runs: tyro.conf.Positional[tuple[Path, ...]], output: Path = Path("curves.png")
    ) -> tuple[tuple[Path, ...], Path]:
        """Draw return over steps and over FLOPs, memory and speed of runs into one PNG.

        Args:
            runs: Run directories.
            output: File to write.
        """
        return runs, output

    runs, output = read(settings, "plot", arguments)
    with mistakes():
        if not runs:
            raise ValueError("name at least one run directory")
        plots.curves(runs, output)
    print(output)


if __name__ == "__main__":
    sys.exit(main())
