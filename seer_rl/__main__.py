"""The command line: `seer train | resume | sweep | ...`. Mistakes are answered in one sentence and exit code 2."""

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from seer_rl import (
    __version__,
    analyze,
    build,
    checkpoint,
    envs,
    export,
    files,
    memory,
    paper,
    plots,
    report,
    results,
    sweep,
    train,
    transfer,
)
from seer_rl.bounds import MOST
from seer_rl.cli import Ended, Mistake, drive, filming, mistakes, parse, read, writable
from seer_rl.config import AGENTS
from seer_rl.console import Display, scores
from seer_rl.envs.apart import EnvironmentFailed
from seer_rl.networks import scale_of
from seer_rl.presets import PRESETS
from seer_rl.terminal import Screen, complain, tell, undisturbed

USAGE = f"""seer {__version__}: reinforcement learning from pixels with stored embeddings

  seer train ENV [--agent {"|".join(AGENTS)}] [--preset {"|".join(PRESETS)}] [settings]   train, freeze, go on cheaper
  seer resume RUN                                                    go on with a run that was stopped or killed
  seer sweep PLAN.toml [--jobs N]                                    many runs; called again, it goes on
  seer eval RUN [--episodes N]                                       play whole games and print their scores
  seer play RUN --video out.mp4                                      film the agent
  seer report DIR [DIR ...] -o report.html [--watch]                 one page about many runs
  seer paper table1|figure4|... --runs DIR                           the paper's tables and figures from your runs
  seer analyze attention|similarity|signals RUN                      where an encoder looks; when its layers stop changing
  seer export RUN encoder.safetensors | policy.onnx                  the encoder for --transfer; the policy without PyTorch
  seer plot RUN [RUN ...] [--output curves.png]                      draw runs into one picture

`seer COMMAND --help` explains each. A first run of about five minutes: seer train --preset quick"""


DAY = 86_400  # seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    if argv is None:
        undisturbed()
        warnings.showwarning = lambda message, *_, **__: Screen(stderr=True).say(f"note: {message}")
    argv = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": train_,
        "resume": resume_,
        "sweep": sweep.command,
        "eval": eval_,
        "export": export_,
        "play": play_,
        "plot": plot_,
        "report": report_,
        "paper": paper.command,
        "analyze": analyze.command,
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    try:
        if argv[0] not in commands:
            raise Mistake(f"there is no command {argv[0]!r}: choose {', '.join(commands)}")
        commands[argv[0]](argv[1:])
    except Mistake as mistake:
        complain(str(mistake))
        return 2
    except EnvironmentFailed as error:
        complain(f"the environment failed: {error}")
        return 1
    except Ended as end:
        complain(str(end.args[0]))
        return int(end.args[1])
    except KeyboardInterrupt:
        complain("stopped")
        return 130
    return 0


def train_(arguments: list[str]) -> None:
    config = parse(arguments)
    if ":" in config.agent.encoder:
        os.environ[build.CODE] = config.agent.encoder  # named by the user, for this process and those it starts
    console = Screen()
    with mistakes():
        run = train.Run(memory.settle(config, console.say))
    drive(run, console, Display(console))


def resume_(arguments: list[str]) -> None:
    def settings(run: tyro.conf.Positional[Path], steps: int | None = None) -> tuple[Path, int | None]:
        """Go on with a run that was stopped or killed, from its newest checkpoint, exactly as if nothing had happened.

        Args:
            run: Run directory.
            steps: Agent steps of the whole run, more than it has, to train longer. A run that has ended must have kept its
                last checkpoint (--keep-last). None: as many as its settings say.
        """
        return run, steps

    (run_dir, steps), console = read(settings, "resume", arguments), Screen()
    with mistakes():
        run = train.resume(run_dir, lambda text: console.say(f"note: {text}"), steps)
    drive(run, console, Display(console))


def load(run_dir: Path, render_mode: str | None = None) -> tuple[build.Agent, Any]:
    """Agent and evaluation environment of a finished or running run."""
    with mistakes():
        return build.trained(run_dir, checkpoint.load_config(run_dir), render_mode)


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
    if episodes < 1 or not 0 <= seed <= MOST:
        raise Mistake(f"--episodes must be at least 1, and --seed from 0 to {MOST:.0e}")
    with mistakes():
        device = build.choose_device(device_name)
    agent, env = load(run)
    results = train.evaluate(agent.to(device), env, episodes, seed, device)
    env.close()
    print(f"{scores(results)} over {episodes} games (median {np.median(results):,.1f}): {' '.join(f'{r:g}' for r in results)}")


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
    if episodes < 1 or not 0 <= seed <= MOST:
        raise Mistake(f"--episodes must be at least 1, and --seed from 0 to {MOST:.0e}")
    agent, env = load(run, render_mode="rgb_array")
    with contextlib.closing(env), filming(video, env.metadata["render_fps"]) as take:
        results = train.evaluate(agent, envs.Filmed(env, take), episodes, seed, torch.device("cpu"))
    tell(f"{video}: {episodes} game{'s' if episodes > 1 else ''}, {scores(results)}")


def export_(arguments: list[str]) -> None:
    def settings(
        run: tyro.conf.Positional[Path], output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTPUT")]
    ) -> tuple[Path, Path]:
        """Write the encoder of a run's agent (.safetensors), or its whole policy (.onnx), into one file.

        Args:
            run: Run directory.
            output: File to write: NAME.safetensors has the encoder's weights by layer, NAME.onnx takes images, gives actions.
        """
        return run, output

    run, output = read(settings, "export", arguments)
    with mistakes():
        if output.suffix not in (".safetensors", ".onnx"):
            raise ValueError(f"{output} must end in .safetensors (the encoder) or .onnx (the policy)")
        writable(output)
        config = checkpoint.load_config(run)
        agent, env = build.trained(run, config)
        with contextlib.closing(env):
            if output.suffix == ".onnx":
                largest, seconds = export.export(agent, env, output, count=200)
                tell(
                    f"{output}: {output.stat().st_size / 1e6:.2f} MB, {1e3 * seconds:.2f} ms an observation on one core; "
                    f"the agent's actions at 200 observations, outputs within {largest:.1g}"
                )
                return
        weights = transfer.encoder_weights(agent.state_dict())
        about = {"encoder": config.agent.encoder, "images": agent.obs_shape, "scale": scale_of(agent),
                 "env": config.env, "agent": agent.name}  # fmt: skip
        files.write_atomically(output, transfer.encoder_file(weights, about))
    tell(f"{output}: {sum(w.numel() for w in weights.values()):,} numbers of {config.agent.encoder}, from {config.env}")


def plot_(arguments: list[str]) -> None:
    def settings(
        runs: tyro.conf.Positional[tuple[Path, ...]], output: Path = Path("curves.png")
    ) -> tuple[tuple[Path, ...], Path]:
        """Draw return over steps and over FLOPs, memory and speed of runs into one picture.

        Args:
            runs: Run directories.
            output: Picture to write, PNG or PDF.
        """
        return runs, output

    runs, output = read(settings, "plot", arguments)
    with mistakes():
        if not runs:
            raise ValueError("name at least one run directory")
        plots.curves(runs, writable(output, *plots.KINDS))
    tell(output)


def report_(arguments: list[str]) -> None:
    def settings(
        runs: tyro.conf.Positional[tuple[Path, ...]],
        output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html"),
        film: bool = True,
        watch: bool = False,
        every: int = 60,
    ) -> tuple[tuple[Path, ...], Path, bool, bool, int]:
        """Write one page about runs, that opens anywhere without a network: curves, intervals, cost, settings, pictures.

        Args:
            runs: Run directories, or directories of runs.
            output: File to write.
            film: Let an agent of each kind play a game, and show pictures of it.
            watch: Write it again and again until all runs are done; an open page reloads itself.
            every: Seconds between two writings.
        """
        return runs, output, film, watch, every

    runs, output, film, watch, every = read(settings, "report", arguments)

    def note(text: str) -> None:
        Screen(stderr=True).say(f"note: {text}")

    with mistakes():
        if not runs:
            raise ValueError("name at least one directory of runs")
        if not 1 <= every <= DAY:
            raise ValueError(f"--every must be from 1 to {DAY:,}, not {every}")
        writable(output)
        while True:
            found = results.find(runs, note)
            going = watch and not all(result.has_ended for result in found)
            report.write(found, output, ["report", *arguments], note, film and not going, every if going else None)
            tell(f"{output}: {sum(r.has_ended for r in found)} of {len(found)} runs done")
            if not going:
                return
            time.sleep(every)


if __name__ == "__main__":
    sys.exit(main())
