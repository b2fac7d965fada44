"""The command line: `seer train | resume | sweep | ...`. A command is a file beside this one, imported when it is asked for."""

import importlib
import sys
import warnings
from collections.abc import Sequence

from seer_rl import __version__

COMMANDS = ("train", "resume", "sweep", "eval", "play", "report", "paper", "analyze", "export", "plot")
USAGE = f"""seer {__version__}: reinforcement learning from pixels with stored embeddings

  seer train ENV [--agent NAME] [--preset NAME] [settings]           train, freeze, go on cheaper
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 where a run failed, 2 for a mistake, 128 + n after signal n."""
    if argv is None:
        from seer_rl.commands.console import Screen, undisturbed

        undisturbed()
        warnings.showwarning = lambda message, *_, **__: Screen(stderr=True).say(f"note: {message}")
    name, *arguments = list(sys.argv[1:] if argv is None else argv) or [""]
    if name in ("", "-h", "--help"):
        print(USAGE)
        return 0 if name else 2
    from seer_rl import outside
    from seer_rl.commands.errors import Mistake, answered

    outside.trust()  # what the environment variable names may lie in the working directory

    if name not in COMMANDS:
        return answered(Mistake(f"there is no command {name!r}: choose {', '.join(COMMANDS)}"))
    try:
        importlib.import_module(f"seer_rl.commands.{name}").command(arguments)
    except (Exception, KeyboardInterrupt) as error:
        return answered(error)
    return 0
