"""Settings as words: reading a command line, or those of a plan, which are the same."""

import argparse
import contextlib
import io
import itertools
import re
from dataclasses import fields, replace
from typing import Any

import tyro

from seer_rl import outside
from seer_rl.envs import FAMILIES
from seer_rl.training.config import AGENTS, TrainConfig
from seer_rl.training.presets import PRESETS, configure

TRAIN_HELP = f"""Train an agent; with --seer.freeze-step, freeze its encoder then and go on with embeddings.

  seer train atari/alien                                   data-efficient Rainbow, 100,000 steps, never frozen
  seer train atari/alien --seer.freeze-step 50000          the same with SEER
  seer train atari/alien --preset paper                    the paper's figure 3: 500,000 steps, its T_f for this game
  seer train atari/alien --preset paper-memory             its figure 4: the same in 0.07 GB of replay
  seer train atari/alien --preset paper --seer.freeze-step None        the paper's baseline
  seer train dmc/walker-walk --transfer runs/STAND         begin with another run's network, its encoder frozen from the start
  seer train atari/pong --agent dqn --replay.memory 500MB  another agent; memory in bytes, everything counted

--agent {{{",".join(AGENTS)}}} and --preset {{{",".join(PRESETS)}}} choose what the settings below start from."""


class Mistake(ValueError):
    """Something the user can put right, said in one sentence."""


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


def parse(arguments: list[str], trusting: bool = False) -> TrainConfig:
    """Read the settings of a run from the words after `seer train`: those of agent and preset, then what the words change.

    trusting: the words are the user's own, so that code from elsewhere that they name may be imported.
    Raises Mistake for what cannot be read, and for settings that do not go together.
    """
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    chooser.add_argument("--agent")
    chooser.add_argument("--preset")
    try:
        names, rest = chooser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise Mistake(f"{error} (seer train --help)") from None
    if trusting and names.agent:
        outside.trust(names.agent)

    def apply(config: TrainConfig) -> TrainConfig:
        known = {f"--env.{field.name.replace('_', '-')}" for field in fields(config.environment)}
        for word in rest:
            flag = word.partition("=")[0].replace("--env.no-", "--env.").replace("_", "-")
            if flag.startswith("--env.") and flag not in known and config.env:
                raise Mistake(f"{config.env} has no setting {flag} (seer train {config.env} --help)")
        default = replace(config, env=config.env or tyro.MISSING)
        chosen: TrainConfig = read(
            tyro.conf.AvoidSubcommands[TrainConfig], "train", rest, description=TRAIN_HELP, default=default
        )
        return chosen

    # The defaults, and with the agent its settings, depend on the environment, which only tyro can tell from the settings'
    # values; and on --transfer. So a guess comes first, and is corrected.
    before = dict(zip(rest, ["", *rest], strict=False))

    def may_be_a_value(word: str) -> bool:
        return before[word].startswith("--") and "=" not in before[word]

    def may_be_an_environment(word: str) -> bool:
        head, slash, _ = word.partition("/")
        outsider = bool(re.fullmatch(r"[\w.]+:\w+", head)) and not may_be_a_value(word)  # a label of that form imports nothing
        return bool(slash) and (outsider or head in {family.name for family in FAMILIES})

    guess = min(filter(may_be_an_environment, rest), key=may_be_a_value, default="")
    if trusting:
        outside.trust(guess.partition("/")[0])
    try:
        asked = apply(configure(guess, names.agent, names.preset))
        if trusting:
            outside.trust(asked.env.partition("/")[0])
        config = configure(asked.env, names.agent, names.preset, asked.transfer.source is not None)
    except ValueError as error:
        raise Mistake(str(error)) from error
    config = apply(config)
    if trusting:
        outside.trust(config.agent.encoder)
    return config
