"""Runs the command line: `seer train | resume | sweep | ...`. A command is a function in a file beside this one.

The first words say which, so that only its file is imported. tyro reads the other words by the types and the docstring of the
function, and prints these as its help. What a command works with is imported in its function, so that its help need not wait
for PyTorch. tyro could join all commands into one application, but it would have to import them all, and the defaults of
`seer train` depend on its words.
"""

import functools
import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from seer_rl import __version__

COMMANDS = {  # their arguments and what they do
    "train": ("ENV [--agent NAME] [--preset NAME] [settings]", "train, freeze, go on cheaper"),
    "resume": ("RUN", "go on with a run that was stopped or killed"),
    "sweep": ("PLAN.toml [--jobs N]", "many runs; called again, it goes on"),
    "eval": ("RUN [--episodes N]", "play whole games and print their scores"),
    "play": ("RUN --video out.mp4", "film the agent"),
    "report": ("DIR [DIR ...] -o report.html [--watch]", "one page about many runs"),
    "paper": ("table1|figure4|... --runs DIR", "the paper's tables and figures from your runs"),
    "paper plan": ("table1|figure4|...", "the sweep that trains those runs, with its cost"),
    "analyze attention": ("RUN", "where an encoder looks"),
    "analyze similarity": ("RUN", "how much each layer still changes"),
    "analyze signals": ("RUN [RUN ...]", "what an automatic freeze went by"),
    "export": ("RUN encoder.safetensors | policy.onnx", "the encoder for --transfer; the policy without PyTorch"),
    "plot": ("RUN [RUN ...] [--output curves.png]", "draw runs into one picture"),
}


def usage(first: str = "") -> str:
    """Return a line for every command whose first word is `first`; for every command where it is empty."""
    lines = {f"  seer {name} {words}": what for name, (words, what) in COMMANDS.items() if first in ("", name.split()[0])}
    width = max(map(len, lines))
    return "\n".join(f"{line:{width}}  {what}" for line, what in lines.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code: 0, 1 where a run failed, 2 for a mistake, 128 + n after signal n.

    argv: the words after `seer`; None takes those of this process, and prepares the process for a person who reads along.
    Raises SystemExit where tyro has printed the help of a command.
    """
    if argv is None:
        prepare()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(f"seer {__version__}: reinforcement learning from pixels with stored embeddings\n\n{usage()}\n")
        print("`seer COMMAND --help` explains each. A first run of a quarter of an hour: seer train --preset quick")
        return 0 if words else 2
    from seer_rl.commands.errors import answered

    before, sys.argv = sys.argv, [*sys.argv[:1], *words]  # where sweeps and reports find how they were called
    try:
        run(words)
    except (Exception, KeyboardInterrupt) as error:
        return answered(error)
    finally:
        sys.argv = before
    return 0


def prepare() -> None:
    """Let no output fail this process, and print its warnings as notes, a line each."""
    from seer_rl.commands.streams import undisturbed

    def note(message: Warning | str, *_: object, **__: object) -> None:
        from seer_rl.commands.console import Screen

        Screen(stderr=True).say(f"note: {message}")

    undisturbed()
    warnings.showwarning = note


def run(words: Sequence[str]) -> None:
    """Run the command that `words` begin with. Raises Mistake where there is none, or where it cannot be meant."""
    from seer_rl import outside
    from seer_rl.training.arguments import parse

    outside.trust()  # what the environment variable names may lie in the working directory
    if words[0] not in COMMANDS and words[0] in {name.split()[0] for name in COMMANDS} and words[1:] in (["-h"], ["--help"]):
        print(usage(words[0]))
        return
    name = chosen(words)
    parts = name.split()
    function = getattr(importlib.import_module(f"seer_rl.commands.{parts[0]}"), parts[-1])
    rest = words[len(parts) :]
    if name == "train":  # the defaults of its settings depend on its words
        function(parse(rest, trusting=True))
    else:
        call(function, name, rest)


def chosen(words: Sequence[str]) -> str:
    """Return the name of the command that `words` begin with. Raises Mistake where there is none."""
    from seer_rl.training.arguments import Mistake

    known = [name for name in COMMANDS if list(words[: len(name.split())]) == name.split()]
    if known:
        return max(known, key=len)  # `seer paper plan` is another command than `seer paper`
    group = [name for name in COMMANDS if name.startswith(f"{words[0]} ")]
    if group and len(words) == 1:
        raise Mistake(f"say which: {', '.join(f'seer {name}' for name in group)}")
    given = " ".join(words[: 2 if group else 1])
    raise Mistake(f"there is no command {given!r}: choose {', '.join(group or COMMANDS)}")


def call(function: Callable[..., None], name: str, words: Sequence[str]) -> None:
    """Call a command's function with what `words` say. Raises Mistake, also for a number that is not within its bounds."""
    from seer_rl.bounds import check_values
    from seer_rl.commands.errors import mistakes
    from seer_rl.training.arguments import read

    @functools.wraps(function)  # so that tyro sees the function's types, and calls this one
    def given(*args: Any, **named: Any) -> inspect.BoundArguments:
        return inspect.signature(function).bind(*args, **named)

    about = (inspect.getdoc(function) or "").partition("\n\nArgs:")[0]  # with its indentation, which tyro drops
    arguments: inspect.BoundArguments = read(given, name, words, description=about)
    with mistakes():
        check_values(function, arguments.arguments)
    function(*arguments.args, **arguments.kwargs)
