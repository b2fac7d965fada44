"""Reads settings from words: those of a command line, and those of a plan, which are alike.

What the settings of a training need is imported in `parse`, so that the help of other commands is printed at once.
"""

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from seer_rl import outside

if TYPE_CHECKING:
    from seer_rl.training.config import TrainConfig

TRAIN_HELP = """Train an agent. With --seer.freeze-step, freeze its encoder at that step and go on with stored embeddings.

  seer train atari/alien                                   Rainbow, 100,000 steps, never frozen
  seer train atari/alien --seer.freeze-step 50000          the same with SEER
  seer train atari/alien --preset paper                    the paper's figure 3: 500,000 steps, its T_f for this game
  seer train atari/alien --preset paper-memory             its figure 4: the same in 0.07 GB of replay
  seer train atari/alien --preset paper --seer.freeze-step None        the paper's baseline
  seer train dmc/walker-walk --transfer runs/STAND         begin with another run's network, its encoder frozen from the start
  seer train atari/pong --agent dqn --replay.memory 500MB  another agent; memory in bytes, everything counted

--agent {agents} and --preset {presets} choose the defaults of the settings below."""


class Mistake(ValueError):
    """Something the user can put right, said in one sentence."""


def read(settings: Any, command: str, words: Sequence[str], **options: Any) -> Any:
    """Return what tyro makes of `settings`, a function or a dataclass, from the words after `seer COMMAND`.

    options: those of `tyro.cli`. Raises Mistake, in one sentence, for words that tyro refuses; SystemExit where they ask for
    help.
    """

    def refuse(error: Any) -> None:
        if type(error).__name__ == "BadValue" and error.argument.is_positional():
            # An unknown option stands where a positional argument is due. With an empty word in that argument's place, tyro
            # finds the option, and calls this function again.
            read(settings, command, ["", *words], **options)
        elif said := _sentence(error):
            raise Mistake(f"{said} (seer {command} --help)")

    with _refusing(refuse):
        return tyro.cli(settings, prog=f"seer {command}", args=words, registry=NUMBERS, **options)


@contextlib.contextmanager
def _refusing(refuse: Callable[[Any], None]) -> Iterator[None]:
    """Call `refuse` with what tyro has against a command line, before tyro prints a box about it and exits with code 2.

    tyro's module for this came with 1.0.14 and is private: it may change. Where it is missing, the box is printed.
    """
    try:
        from tyro._errors import on_parse_error
    except ImportError:
        yield
    else:
        with on_parse_error(refuse):
            yield


def _sentence(error: Any) -> str | None:
    """Say what an error of tyro's is about. None for a kind of error that is not known here."""
    match type(error).__name__:
        case "UnrecognizedArgs":
            return _unknown(error.tokens)
        case "MissingArgs" if error.unrecognized_tokens:
            return _unknown(error.unrecognized_tokens)
        case "MissingArgs":
            names = [_name(one.arg) for one in error.missing_arguments]
            return f"{_listed(names, 'and')} {'is' if len(names) == 1 else 'are'} missing"
        case "InvalidChoice":
            return f"{_name(error.argument)} must be {_listed(error.choices, 'or')}, not {error.value!r}"
        case "BadValue":
            return f"{_name(error.argument)} needs a value"
        case "InstantiationFailure" if error.argument:
            return f"cannot read {_name(error.argument)}: {error.message}"
        case "InstantiationFailure":
            return str(error.message)
        case _:
            return None


def _unknown(words: Sequence[str]) -> str:
    """Say which of some words that tyro cannot place is wrong: the first option, or else the first word."""
    option = next((word for word in words if word.startswith("-")), None)
    return f"there is no option {option.partition('=')[0]}" if option else f"{words[0]!r} is one word too many"


def _name(argument: Any) -> str:
    """Return how an argument is called on the command line: "RUN", "--steps", "-o or --output"."""
    return str(argument.lowered.metavar if argument.is_positional() else " or ".join(argument.lowered.name_or_flags))


def _listed(words: Sequence[str], last: str) -> str:
    """Join words by commas, the last two by the word `last`: "auto, cpu or cuda"."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


NUMBERS = ConstructorRegistry()


@NUMBERS.primitive_rule
def _numbers(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Read int, float, either of them with None or some words besides, and tuples of these.

    tyro can read them, too, but does not say in words what a text should have been. Returns None, which leaves the type to
    tyro, for any other type.
    """
    many = get_args(info.type)[1:] == (...,)
    hint = get_args(info.type)[0] if many else info.type
    number: Any = None
    words: dict[str, Any] = {}
    for part in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
        if part in (int, float):
            number = part
        elif part is NoneType:
            words["None"] = None
        elif get_origin(part) is Literal:
            words |= {str(word): word for word in get_args(part)}
        else:
            return None
    if number is None:
        return None

    def one(text: str) -> Any:
        try:
            return words[text] if text in words else number(text)
        except ValueError:
            what = {int: "a whole number", float: "a number"}[number]
            raise ValueError(f"{text!r} is not {_listed([what, *words], 'or')}") from None

    choices = {word: f"{{{word}}}" for word in words}
    metavar = "|".join(filter(None, (choices.pop("None", ""), number.__name__.upper(), *choices.values())))  # as tyro writes it
    return PrimitiveConstructorSpec(
        nargs="*" if many else 1,
        metavar=f"[{metavar} [{metavar} ...]]" if many else metavar,
        instance_from_str=lambda texts: tuple(map(one, texts)) if many else one(texts[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: list(map(str, value if many else [value])),
    )


@dataclass(frozen=True)
class Start:
    """What the defaults of a run's settings depend on, beside its environment. Empty: not named."""

    agent: str = ""
    preset: str = ""


def parse(words: Sequence[str], trusting: bool = False) -> "TrainConfig":
    """Read the settings of a run from the words after `seer train`: those of agent and preset, then what the words change.

    trusting: the words are the user's own, so that code from elsewhere that they name may be imported.
    Raises Mistake for what cannot be read, and for settings that do not go together.
    """
    from seer_rl.envs import FAMILIES, code_in
    from seer_rl.training.config import AGENTS, WANDB, TrainConfig
    from seer_rl.training.presets import PRESETS, configure

    start, rest = read(Start, "train", words, return_unknown_args=True, add_help=False)
    if trusting:
        outside.trust(start.agent)
    about = TRAIN_HELP.format(agents=f"{{{','.join(AGENTS)}}}", presets=f"{{{','.join(PRESETS)}}}")

    def apply(config: TrainConfig) -> TrainConfig:
        known = {f"--env.{field.name.replace('_', '-')}" for field in fields(config.environment)}
        for word in rest:
            flag = word.partition("=")[0].replace("--env.no-", "--env.").replace("_", "-")
            if flag.startswith("--env.") and flag not in known and config.env:
                raise Mistake(f"{config.env} has no setting {flag} (seer train {config.env} --help)")
        default = replace(config, env=config.env or tyro.MISSING)
        chosen: TrainConfig = read(tyro.conf.AvoidSubcommands[TrainConfig], "train", rest, description=about, default=default)
        return chosen

    # The defaults, and with the agent its settings, depend on the environment, which only tyro can tell from the settings'
    # values; and on --transfer. So a guess comes first, and is corrected.
    before = dict(zip(rest, ["", *rest], strict=False))

    def may_be_a_value(word: str) -> bool:
        return before[word].startswith("--") and "=" not in before[word]

    def may_be_an_environment(word: str) -> bool:
        head, slash, _ = word.partition("/")
        outsider = bool(re.fullmatch(r"[\w.]+:\w+", head)) and not may_be_a_value(word)  # a label of that form imports nothing
        return outsider or (bool(slash) and head in {family.name for family in FAMILIES})

    guess = min(filter(may_be_an_environment, rest), key=may_be_a_value, default="")
    if trusting:
        outside.trust(code_in(guess))
    try:
        asked = apply(configure(guess, start.agent or None, start.preset or None))
        if trusting:
            outside.trust(code_in(asked.env))
        config = configure(asked.env, start.agent or None, start.preset or None, asked.transfer.source is not None)
    except (ValueError, ImportError) as error:
        raise Mistake(str(error)) from error
    config = frozen_within(apply(config), config.seer.freeze_step)
    if trusting:
        outside.trust(config.agent.encoder, *([WANDB] if config.log == "wandb" else []))
    return config


def frozen_within(config: "TrainConfig", freeze_step: int | str | None) -> "TrainConfig":
    """Return settings whose freeze comes before the run ends, if it is the preset's and the run long enough to learn.

    A preset's T_f, `freeze_step`, that lies beyond a shorter run comes half-way between its first update and its end, and a
    warning says so. Another T_f stays as it is: `check` refuses it where it lies beyond the run.
    """
    from seer_rl.training.config import first_update

    first, steps = first_update(config.agent, config.agent.batch_size), config.steps
    within = not isinstance(freeze_step, int) or freeze_step <= steps - config.environment.num_envs
    if within or config.seer.freeze_step != freeze_step or first >= steps:
        return config
    sooner = (first + steps) // 2
    warnings.warn(
        f"the preset's freeze at step {freeze_step:,} lies beyond this run of {steps:,} steps: it comes at step {sooner:,}",
        stacklevel=2,
    )
    return replace(config, seer=replace(config.seer, freeze_step=sooner))
