"""Settings of a training: one dataclass, checked by what uses it, written to and read from TOML."""

import re
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tomli_w
import tyro

from seer_rl import agents, outside
from seer_rl.agents.base import Agent, AgentConfig
from seer_rl.agents.rainbow import RainbowConfig
from seer_rl.bounds import MOST, Count, Share, Steps, Within, check_bounds
from seer_rl.convergence import EVERY
from seer_rl.envs import EnvConfig
from seer_rl.replay.codec import Dtype
from seer_rl.training.files import encodable

AGENTS: dict[str, type[Agent]] = {agent.name: agent for agent in agents.AGENTS}


# What a class must offer before anything is made of it; `Agent` says the rest.
CONTRACT = ("name", "Config", "continuous", "compiled", "sharing", "period", "augment", "act", "policy", "update", "errors")


def agent_called(name: str) -> type[Agent]:
    """Find an agent's class by the name of one of ours, or module:Class, which must have been named by the user.

    Raises ValueError where there is none.
    """
    if not outside.is_outside(name):
        if name not in AGENTS:
            raise ValueError(f"there is no agent {name!r}: choose {' or '.join(AGENTS)}, or give module:Class")
        return AGENTS[name]
    found: type[Agent] = outside.load(name, "agent")
    missing = [part for part in CONTRACT if not hasattr(found, part)]
    if missing or not issubclass(found.Config, AgentConfig):
        why = f"has no {missing[0]}" if missing else "has a Config that is no AgentConfig"
        raise ValueError(f"the agent {name} {why}: seer_rl/agents/base.py says what an agent needs")
    _outside[found.Config] = name
    return found


_outside: dict[type[AgentConfig], str] = {}  # names of the agents from elsewhere that have been imported, by their settings


EARLIEST = 10_000  # agent steps before an automatic freeze, where nothing else is said


def parse_size(text: str) -> int:
    """Bytes of "70MB" (10^6), "64MiB" (2^20), "0.07GB" or "70560000"."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if not match or (match[3] and not match[2]):
        raise ValueError(f"{text!r} is not a size: write for example 70MB, 512MiB or 1.5GB")
    unit: int = (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " ")
    if (size := float(match[1]) * unit) > MOST:
        raise ValueError(f"{text[:20]!r} is more than there can be: the most is {MOST:.0e} bytes")
    return round(size)


def size_or(*words: str) -> Any:
    """How the command line reads a size, or one of `words` ("none" is None)."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join(["SIZE", *words]),
        instance_from_str=lambda texts: {"none": None}.get(texts[0], texts[0]) if texts[0] in words else parse_size(texts[0]),
        is_instance=lambda value: value is None or isinstance(value, int) or value in words,
        str_from_instance=lambda value: ["none" if value is None else str(value)],
    )


@dataclass(frozen=True)
class ReplayConfig:
    """What the replay may hold. Without a limit: every step of the run."""

    memory: Annotated[int | Literal["auto"] | None, size_or("none", "auto"), Within(1)] = None
    """Bytes of the replay, everything counted (70MB, 1.5GiB, ...). It never takes more, before or after the freeze.
    auto: the largest that fits, into --memory-limit or what memory is free."""
    capacity: Annotated[int | None, Within(1)] = None
    """Or its steps before the freeze; their bytes are the budget afterwards."""
    priority_exponent: Share = 0.0
    """0 samples uniformly, as the paper; 0.5 is Rainbow's prioritized replay."""
    priority_beta: Share = 0.4
    """Importance weights' exponent at the start; it grows to 1 at the end of the run."""


@dataclass(frozen=True)
class SeerConfig:
    """When to freeze the encoder and replace stored images by embeddings."""

    freeze_step: Annotated[int | Literal["auto"] | None, tyro.conf.arg(aliases=["--seer.freeze"]), Within(0)] = None
    """T_f, in agent steps. None: never, which is the baseline. auto: when signals of the training say that the encoder has
    converged (docs/beyond.md), and at --seer.latest whatever they say."""
    earliest: Annotated[int | None, Within(0)] = None
    """Of an automatic freeze, in agent steps. None: 10,000, or the latest if that is earlier."""
    latest: Annotated[int | None, Within(1)] = None
    """Of an automatic freeze. None: half of the run, and not before the earliest."""
    layers: Annotated[int | None, Within(1)] = None
    """Freeze convolutions up to this one and store what it gives. None: all, and on DeepMind Control the embeddings too."""
    copies: Annotated[int, Within(1, 100)] = 4
    """Embeddings stored per observation (the paper's K), each of another crop or shift. Without augmentation: one."""
    dtype: Dtype = "float32"
    """How embeddings are stored; networks get float32. uint8 and uint4 lie on a grid per dimension, made at the freeze."""
    batch_size: Annotated[int | None, Within(1, 100_000)] = None
    """Transitions per update after the freeze. None: as before it."""
    replay_ratio: Annotated[int, Within(1, 1000)] = 1
    """Updates after the freeze in place of each one before it: what an update then costs less can be spent on more of them."""

    def between(self, steps: int) -> tuple[int, int]:
        """The earliest and the latest step of an automatic freeze in a run of `steps`."""
        earliest = min(EARLIEST, self.latest or EARLIEST) if self.earliest is None else self.earliest
        return earliest, self.latest or max(earliest, steps // 2)


@dataclass(frozen=True)
class TransferConfig:
    """Begin with what another run has learnt. Its encoder is then frozen from the start (--seer.freeze-step 0)."""

    source: Annotated[Path | None, tyro.conf.arg(name="transfer", prefix_name=False)] = None
    """Run directory, or the file of an encoder (`seer export RUN encoder.safetensors`)."""
    only: Literal["all", "encoder"] = "all"
    """all: the whole network, for another task with the same actions. encoder: what is below the heads, for any task with the
    same images."""


@dataclass(frozen=True)
class EvalConfig:
    """Whole games in an environment of its own, without noise, clipping or life loss."""

    every: Count = 10_000
    """Agent steps between evaluations; there is always one at the end."""
    episodes: Count = 10
    """Games per evaluation."""


@dataclass(frozen=True)
class AnalysisConfig:
    """What to keep for `seer analyze`, which looks inside the networks."""

    every: Annotated[int | None, Within(1)] = None
    """Agent steps between snapshots of the online network's weights (Atari: 3 MB, DeepMind Control: 30 MB). None: keep none."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """Environment: atari/alien, atari/bank_heist, dmc/cartpole-swingup, dmc/walker-walk, ..."""
    steps: Count = 100_000
    """Agent steps (on Atari 4 frames each, on DeepMind Control --env.action-repeat control steps)."""
    seed: Steps = 0
    """Of everything random. The same seed on the same CPU with the same settings gives the same run, bit for bit."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks are; auto takes a GPU if there is one."""
    threads: Annotated[int, Within(1, 1024)] = 1
    """CPU threads of the networks. After the freeze a second one gains little, and a run's numbers depend on how many there
    are: better run several seeds side by side."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the networks' products but those of last layers; everything else is float32. bfloat16 is two to four times faster on
    processors and GPUs that know it, but Rainbow learnt less with it (docs/performance.md)."""
    compile: bool = False
    """Compile the losses of Rainbow and DQN (the command line's default). Where that fails, the run goes on without."""
    memory_limit: Annotated[int | None, size_or("none"), Within(1)] = None
    """Bytes that the whole process may take. A run that could take more is refused at the start, with the arithmetic."""
    checkpoint_every: Count = 10_000
    """Agent steps between checkpoints of the whole run, from which it can be resumed; there is one when it is stopped, too."""
    keep: Count = 2
    """Checkpoints to keep. They are removed when the run has ended."""
    keep_last: bool = False
    """Keep a checkpoint of the end, from which `seer resume RUN --steps MORE` trains longer."""
    label: str = ""
    """What pictures and tables call these settings. Empty: by when the encoder is frozen."""
    run_dir: Path | None = None
    """Where the run is written. None: runs/ENV__AGENT__SEED__TIME."""
    environment: Annotated[EnvConfig, tyro.conf.arg(name="env")] = field(default_factory=EnvConfig)
    seer: SeerConfig = field(default_factory=SeerConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    agent: AgentConfig = field(default_factory=RainbowConfig)


def check_numbers(config: TrainConfig) -> None:
    """Raise ValueError, in one sentence, for a number that is not within the bounds written beside its setting."""
    sections = {"": config, "agent.": config.agent, "env.": config.environment, "seer.": config.seer,
                "replay.": config.replay, "eval.": config.eval, "analysis.": config.analysis}  # fmt: skip
    for prefix, section in sections.items():
        check_bounds(section, prefix)


def check(config: TrainConfig) -> None:
    """Raise ValueError, in one sentence, for settings that cannot be meant."""
    agent, freeze_step = config.agent, config.seer.freeze_step
    check_numbers(config)
    for name, value in flat(config).items():
        if name != "run_dir" and isinstance(value, str | Path) and not encodable(str(value)):
            raise ValueError(f"--{name.replace('_', '-')} is {str(value)!r}, which is no valid UTF-8")
    if config.replay.memory is not None and config.replay.capacity is not None:
        raise ValueError("give --replay.memory or --replay.capacity, not both")
    if isinstance(freeze_step, int) and freeze_step >= config.steps:
        raise ValueError(f"--seer.freeze-step {freeze_step:,} lies beyond the run of {config.steps:,} steps")
    if freeze_step != "auto":
        for name in ("earliest", "latest"):
            if getattr(config.seer, name) is not None:
                raise ValueError(f"--seer.{name} is for --seer.freeze auto: without it nothing is decided")
    elif config.seer.earliest is None and config.steps <= EARLIEST and config.seer.latest is None:
        raise ValueError(
            f"--seer.freeze auto begins to look at step {EARLIEST:,}, but the run has {config.steps:,}: set --seer.earliest"
        )
    if config.seer.latest is not None and config.seer.latest < (config.seer.earliest or 0):
        raise ValueError(f"--seer.latest {config.seer.latest:,} lies before --seer.earliest {config.seer.earliest:,}")
    if freeze_step == "auto" and config.seer.latest is None and config.seer.between(config.steps)[0] >= config.steps:
        raise ValueError(
            f"a run of {config.steps:,} steps never freezes: --seer.earliest {config.seer.earliest} lies beyond it "
            "(with --seer.latest beyond it, too, the signals are only recorded)"
        )
    if (first := first_update(agent, agent.batch_size)) > config.steps:
        raise ValueError(
            f"a run of {config.steps:,} steps ends before its first update, which is at step {first:,} "
            f"(--agent.learning-starts {agent.learning_starts}, --agent.batch-size {agent.batch_size})"
        )
    if freeze_step == "auto" and (latest := config.seer.between(config.steps)[1]) < config.steps:
        at = latest if latest >= first else first + -first % EVERY  # nothing is measured before the first update
        if at >= config.steps:
            raise ValueError(
                f"a run of {config.steps:,} steps never freezes: --seer.latest {latest:,} lies before its first update "
                f"at step {first:,}, and the next measurement is at step {at:,}"
            )
    if config.seer.batch_size is not None and first_update(agent, config.seer.batch_size) > config.steps:
        raise ValueError(
            f"a run of {config.steps:,} steps never holds a batch of --seer.batch-size {config.seer.batch_size}: "
            "it would not learn after the freeze"
        )
    if config.seer.layers is not None and freeze_step is None:
        raise ValueError("--seer.layers needs --seer.freeze-step: without it nothing is ever frozen")
    if config.transfer.only != "all" and config.transfer.source is None:
        raise ValueError("--transfer.only needs --transfer, the run to begin with")
    if config.seer.dtype != "float32" and freeze_step is None:
        raise ValueError(f"--seer.dtype {config.seer.dtype} needs --seer.freeze-step: without it nothing is ever frozen")
    if config.seer.replay_ratio != 1 and freeze_step is None:
        raise ValueError("--seer.replay-ratio needs --seer.freeze-step: without it nothing is ever frozen")
    if config.seer.batch_size is not None and freeze_step is None:
        raise ValueError("--seer.batch-size needs --seer.freeze-step: without it nothing is ever frozen")


def first_update(agent: AgentConfig, batch_size: int) -> int:
    """The agent step of the first update in batches of this size, if no episode ends before it."""
    first = max(agent.learning_starts, batch_size + agent.n_step)
    return first + -first % agent.update_every


# What may change between a checkpoint and the run that goes on from it, since nothing that was computed depends on it.
MAY_CHANGE = {
    "run_dir",
    "label",
    "checkpoint_every",
    "keep",
    "keep_last",
    "memory_limit",
    "analysis.every",
    "eval.every",
    "eval.episodes",
}


def check_same(before: str, now: TrainConfig, step: int, frozen: bool) -> None:
    """Raise ValueError, naming the setting and both values, where `now` cannot go on from a checkpoint.

    before: the settings that the checkpoint was made with, as `to_toml` gives them. step: of the checkpoint. frozen: whether
    the encoder was. Learning rates and what is in `MAY_CHANGE` may be others, more steps may be asked for, and everything of
    --seer as long as nothing is frozen and no freeze would lie before the checkpoint.
    """
    then, changed = flat(from_toml(before)), flat(now)
    for name in sorted(then.keys() | changed.keys()):
        old, new = then.get(name), changed.get(name)
        if old == new or name in MAY_CHANGE or name.endswith("learning_rate"):
            continue
        if name == "steps" and now.steps > (old or 0):
            continue
        if name.startswith("seer.") and not frozen:
            planned = now.seer.freeze_step
            last = now.seer.between(now.steps)[1] if planned == "auto" else planned
            if last is None or last >= step:
                continue
            raise ValueError(
                f"{name} is {new}, but the checkpoint is of step {step:,} and its run was not frozen ({name} was {old}): "
                "a freeze cannot lie before it"
            )
        raise ValueError(
            f"{name} is {new}, but the checkpoint of step {step:,} was made with {old}: put that back, or train a new run"
        )


def identity(config: TrainConfig, frozen: bool) -> dict[str, Any]:
    """Return the settings that a run keeps from its beginning to its end, as `check_same` has it, by name; none that is None.

    They tell its files from those of other runs. frozen: whether the encoder is, so that those of --seer are among them.
    """
    kept = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in flat(config).items()
        if name not in MAY_CHANGE and name != "steps" and not name.endswith("learning_rate")
    }
    return {name: value for name, value in kept.items() if value is not None and (frozen or not name.startswith("seer."))}


def flat(config: TrainConfig) -> dict[str, Any]:
    """Every setting by its name in the file, with the agent's name: "agent.name", "seer.dtype"."""

    def inside(settings: dict[str, Any], above: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in settings.items():
            found |= inside(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
        return found

    return inside(asdict(config) | {"agent": {"name": name_of(config.agent), **asdict(config.agent)}}, "")


def name_of(agent: AgentConfig) -> str:
    """The command line's name of the agent with these settings."""
    ours = next((name for name, kind in AGENTS.items() if kind.Config is type(agent)), None)
    return ours or _outside[type(agent)]


def to_toml(config: TrainConfig) -> str:
    """Every setting that is not None, by its section."""

    def present(settings: dict[str, Any]) -> dict[str, Any]:
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in settings.items() if v is not None}
        return {k: present(v) if isinstance(v, dict) else v for k, v in plain.items()}

    settings = present(asdict(config))
    if not encodable(settings.get("run_dir", "")):
        del settings["run_dir"]  # TOML has no way to write it, and a run is where it is found
    settings["agent"] = {"name": name_of(config.agent), **settings["agent"]}
    return tomli_w.dumps(settings)


def from_toml(text: str) -> TrainConfig:
    """The inverse of `to_toml`. Raises ValueError for text that is not such a file."""
    try:
        settings = tomllib.loads(text)
        agent = dict(settings.pop("agent"))
        sections = {"environment": EnvConfig, "replay": ReplayConfig, "seer": SeerConfig, "eval": EvalConfig,
                    "analysis": AnalysisConfig}  # fmt: skip
        transfer = dict(settings.pop("transfer", {}))
        if "source" in transfer:
            transfer["source"] = Path(transfer["source"])
        built: dict[str, Any] = {name: _build(kind, settings.pop(name, {})) for name, kind in sections.items()}
        built["transfer"] = _build(TransferConfig, transfer)
        built["agent"] = _build(agent_called(agent.pop("name")).Config, agent)
        if "run_dir" in settings:
            built["run_dir"] = Path(settings.pop("run_dir"))
        config: TrainConfig = _build(TrainConfig, settings | built)
        return config
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not the settings of a run ({error})") from error


def _build(kind: type[Any], settings: Any) -> Any:
    """A dataclass whose fields have the types that it says. Raises TypeError or ValueError."""
    if not isinstance(settings, dict):
        raise TypeError(f"{settings!r} is no section")
    hints = get_type_hints(kind)
    for name, value in settings.items():
        if name in hints and not _fits(value, hints[name]):
            raise ValueError(f"{name} cannot be {value!r}")
    return kind(**settings)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(hint))
    if get_args(hint):
        return any(_fits(value, choice) for choice in get_args(hint))
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool) and not abs(value) > 2**64
    return isinstance(value, hint)
