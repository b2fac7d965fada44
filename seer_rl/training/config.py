"""The settings of a training run: a dataclass, what settings are refused, and the TOML file that keeps them."""

import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tomli_w
import tyro
from typeguard import TypeCheckError, check_type

from seer_rl import agents, envs, outside
from seer_rl.agents.base import Agent, AgentConfig
from seer_rl.agents.rainbow import RainbowConfig
from seer_rl.bounds import Count, Share, Steps, Within, check_bounds
from seer_rl.convergence import EVERY
from seer_rl.envs.base import EnvConfig
from seer_rl.replay.codec import BITS, EXAMPLES, LEAST, Dtype
from seer_rl.training.files import encodable
from seer_rl.training.sizes import size_or

AGENTS: dict[str, type[Agent]] = {agent.name: agent for agent in agents.AGENTS}


# What a class from elsewhere must have to be taken for an agent; `Agent` says the rest.
CONTRACT = ("name", "Config", "continuous", "compiled", "sharing", "period", "augment", "act", "policy", "update", "errors")


def agent_called(name: str) -> type[Agent]:
    """Return an agent's class by its name: one of ours, or module:Class, which the user must have named.

    Raises ValueError where there is none.
    """
    if not outside.is_outside(name):
        if name not in AGENTS:
            raise ValueError(f"there is no agent {name!r}: choose {' or '.join(AGENTS)}, or give module:Class")
        return AGENTS[name]
    found: type[Agent] = outside.load(name, "agent")
    missing = [part for part in CONTRACT if not hasattr(found, part)]
    if missing or not (isinstance(found.Config, type) and issubclass(found.Config, AgentConfig)):
        why = f"has no {missing[0]}" if missing else "has a Config that is no AgentConfig"
        raise ValueError(f"the agent {name} {why}: seer_rl/agents/base.py says what an agent needs")
    _outside[found.Config] = name
    return found


_outside: dict[type[AgentConfig], str] = {}  # names of the agents from elsewhere that have been imported, by their settings


EARLIEST = 10_000  # agent steps: no automatic freeze comes before, unless --seer.earliest says so


@dataclass(frozen=True)
class ReplayConfig:
    """What the replay may hold. Without a limit it holds every step of the run."""

    memory: Annotated[int | Literal["auto"] | None, size_or("none", "auto"), Within(1)] = None
    """The most bytes that the replay takes, everything counted, before and after the freeze (70MB, 1.5GiB, ...).
    auto: as many as fit into --memory-limit, or into the memory that is free."""
    capacity: Annotated[int | None, Within(1)] = None
    """In place of --replay.memory: the steps that the replay holds before the freeze. Their bytes are its limit afterwards."""
    priority_exponent: Share = 0.0
    """How strongly a transition's error raises its chance of being sampled. 0 samples uniformly, as in the paper; 0.5 is
    Rainbow's prioritized replay."""
    priority_beta: Share = 0.4
    """Exponent of the importance weights at the start of the run. It grows to 1 at the end."""


@dataclass(frozen=True)
class SeerConfig:
    """When to freeze the encoder and replace stored images by embeddings."""

    freeze_step: Annotated[int | Literal["auto"] | None, tyro.conf.arg(aliases=["--seer.freeze"]), Within(0)] = None
    """T_f: the agent step at which the encoder is frozen. None: never, which is the baseline. auto: when signals of the
    training say that the encoder has converged (docs/studies/signals.md), and at --seer.latest whatever they say."""
    earliest: Annotated[int | None, Within(0)] = None
    """The first agent step at which an automatic freeze may come. None: 10,000, or --seer.latest if that is earlier."""
    latest: Annotated[int | None, Within(1)] = None
    """The agent step at which an automatic freeze comes in any case. None: half of the run, and not before --seer.earliest."""
    layers: Annotated[int | None, Within(1)] = None
    """Freeze the first so many convolutions and store what the last of them gives. None: freeze all, and with SAC, RAD, CURL
    and DrQ-v2 also the layer that makes the embeddings."""
    copies: Annotated[int, Within(1, 100)] = 4
    """The paper's K: embeddings stored per observation, each of another crop or shift. An agent that does not augment stores
    one."""
    dtype: Dtype = "float32"
    """How embeddings are stored. Networks get float32 in any case. uint8 and uint4 round every dimension to a grid of its
    own, which is made at the freeze."""
    batch_size: Annotated[int | None, Within(1, 100_000)] = None
    """Transitions per update after the freeze. None: as many as before it."""
    replay_ratio: Annotated[int, Within(1, 1000)] = 1
    """Updates after the freeze in place of each one before it. An update then costs less, so there can be more of them."""

    def between(self, steps: int) -> tuple[int, int]:
        """Return the earliest and the latest step of an automatic freeze in a run of `steps`."""
        earliest = min(EARLIEST, self.latest or EARLIEST) if self.earliest is None else self.earliest
        return earliest, self.latest or max(earliest, steps // 2)


@dataclass(frozen=True)
class TransferConfig:
    """Begin with what another run has learnt. Its encoder is then frozen from the start (--seer.freeze-step 0)."""

    source: Annotated[Path | None, tyro.conf.arg(name="transfer", prefix_name=False)] = None
    """A run directory, or a file that holds an encoder (`seer export RUN encoder.safetensors`)."""
    only: Literal["all", "encoder"] = "all"
    """What is taken over. all: the whole network, for a task with the same actions. encoder: what is below the heads, for any
    task with the same images."""


@dataclass(frozen=True)
class EvalConfig:
    """Evaluations: whole games in an environment of their own, without noise, clipped rewards or ends at a lost life."""

    every: Count = 10_000
    """Agent steps between evaluations. There is always one at the end."""
    episodes: Count = 10
    """Games per evaluation."""


@dataclass(frozen=True)
class AnalysisConfig:
    """What to keep for `seer analyze`, which looks inside the networks."""

    every: Annotated[int | None, Within(1)] = None
    """Agent steps between snapshots of the online network's weights, of 3 MB on Atari and 30 MB on DeepMind Control. None: keep
    no snapshots."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """Environment, such as atari/alien, atari/bank_heist, dmc/cartpole-swingup or dmc/walker-walk."""
    steps: Count = 100_000
    """Length of the run in agent steps. One is 4 frames on Atari, and --env.action-repeat control steps on DeepMind Control."""
    seed: Steps = 0
    """Seed for all randomness. The same seed, settings and kind of CPU reproduce a run exactly."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks compute. auto: on a GPU if there is one."""
    threads: Annotated[int, Within(1, 1024)] = 1
    """CPU threads that the networks use. A second one gains little after the freeze, so several seeds side by side use a CPU
    better. A run's last digits depend on this number."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of the networks' matrix products, except in last layers; everything else is float32. bfloat16 halves
    CURL's updates on processors that support it. On a GPU it gained nothing, and Rainbow gains little (docs/performance.md)."""
    compile: bool = False
    """Compile the losses of Rainbow and DQN, which the command line does by default. Where that fails, the run goes on
    without."""
    memory_limit: Annotated[int | None, size_or("none"), Within(1)] = None
    """The most bytes that the run may take, all its processes together. A run that could take more is refused at the start,
    with the arithmetic."""
    checkpoint_every: Count = 10_000
    """Agent steps between checkpoints, from which `seer resume` goes on. A run that is stopped writes one, too."""
    keep: Count = 2
    """Number of checkpoints to keep. They are removed when the run has ended."""
    keep_last: bool = False
    """Keep a checkpoint of the run's end, from which `seer resume RUN --steps MORE` trains longer."""
    log: Literal["files", "wandb"] = "files"
    """Where metrics go. files: to the run directory, as CSV and for TensorBoard. wandb: to Weights & Biases, too, which needs
    the extra [wandb]. To resume such a run, say SEER_CODE=wandb:init before the command: a file alone sends nothing."""
    label: str = ""
    """The name of these settings in pictures and tables. Empty: they are named by when the encoder was frozen."""
    run_dir: Path | None = None
    """Directory that the run is written to. None: runs/ENV__AGENT__SEED__TIME."""
    environment: Annotated[EnvConfig, tyro.conf.arg(name="env")] = field(default_factory=EnvConfig)
    seer: SeerConfig = field(default_factory=SeerConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    agent: AgentConfig = field(default_factory=RainbowConfig)

    def __post_init__(self) -> None:
        """Take the settings of the environment's family where none are given."""
        if type(self.environment) is EnvConfig and isinstance(self.env, str) and (family := envs.family_of(self.env)):
            object.__setattr__(self, "environment", family.Config(**asdict(self.environment)))


def check_numbers(config: TrainConfig) -> None:
    """Raise ValueError, in one sentence, for a number that is not within the bounds written beside its setting."""
    sections = {"": config, "agent.": config.agent, "env.": config.environment, "seer.": config.seer,
                "replay.": config.replay, "eval.": config.eval, "analysis.": config.analysis}  # fmt: skip
    for prefix, section in sections.items():
        check_bounds(section, prefix)


def check(config: TrainConfig, new: bool = True) -> None:
    """Raise ValueError, in one sentence, for settings that cannot be meant.

    new: the run has not begun; what earlier versions began without a word may go on.
    """
    agent, freeze_step = config.agent, config.seer.freeze_step
    check_numbers(config)
    for name, value in flat(config).items():
        if name != "run_dir" and isinstance(value, str | Path) and not encodable(str(value)):
            raise ValueError(f"--{name.replace('_', '-')} is {str(value)!r}, which is no valid UTF-8")
    if config.steps % (count := config.environment.num_envs):
        raise ValueError(
            f"{count} environments cannot take {config.steps:,} steps together: "
            f"ask for --steps {config.steps + -config.steps % count}, a multiple of --env.num-envs"
        )
    if config.log == "wandb" and config.memory_limit is not None:
        raise ValueError("--memory-limit cannot count what Weights & Biases' own process takes: leave out --log wandb")
    if config.replay.memory is not None and config.replay.capacity is not None:
        raise ValueError("give --replay.memory or --replay.capacity, not both")
    # The step at which the last steps begin: a freeze can come before them, not among them.
    last = config.steps - (count if new else 1)
    if isinstance(freeze_step, int) and freeze_step > last:
        beyond = "beyond" if freeze_step >= config.steps else f"among the last {count} steps of"
        raise ValueError(f"--seer.freeze-step {freeze_step:,} lies {beyond} the run of {config.steps:,} steps")
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
        if at > last:
            why = f"lies before its first update at step {first:,}, and the next measurement is at step {at:,}"
            if at == latest:
                why = f"lies among its last {count} steps"
            raise ValueError(f"a run of {config.steps:,} steps never freezes: --seer.latest {latest:,} {why}")
    if config.seer.batch_size is not None and first_update(agent, config.seer.batch_size) > config.steps:
        raise ValueError(
            f"a run of {config.steps:,} steps never holds a batch of --seer.batch-size {config.seer.batch_size}: "
            "it would not learn after the freeze"
        )
    if config.seer.layers is not None and freeze_step is None:
        raise ValueError("--seer.layers needs --seer.freeze-step: without it nothing is ever frozen")
    if config.transfer.only != "all" and config.transfer.source is None:
        raise ValueError("--transfer.only needs --transfer, the run to begin with")
    if config.seer.dtype in BITS and isinstance(freeze_step, int) and freeze_step < LEAST:
        raise ValueError(
            f"--seer.dtype {config.seer.dtype} makes its grid from stored observations, of which there are too few at "
            f"--seer.freeze-step {freeze_step}: freeze at step {LEAST}, or better {EXAMPLES:,}, or store float16"
        )
    if config.seer.dtype != "float32" and freeze_step is None:
        raise ValueError(f"--seer.dtype {config.seer.dtype} needs --seer.freeze-step: without it nothing is ever frozen")
    if config.seer.replay_ratio != 1 and freeze_step is None:
        raise ValueError("--seer.replay-ratio needs --seer.freeze-step: without it nothing is ever frozen")
    if config.seer.batch_size is not None and freeze_step is None:
        raise ValueError("--seer.batch-size needs --seer.freeze-step: without it nothing is ever frozen")
    _require_kept(config)


def _require_kept(config: TrainConfig) -> None:
    """Raise ValueError, naming the setting, where config.toml would not give back what was chosen."""
    try:
        kept = flat(from_toml(to_toml(config)))
    except outside.Unavailable:
        raise
    except (TypeError, ValueError) as error:  # of types that TOML does not have
        raise ValueError(f"config.toml cannot keep the settings of {name_of(config.agent)} in {config.env}: {error}") from error
    for name, value in flat(config).items():
        back = kept.get(name)
        if name != "run_dir" and back != (list(value) if isinstance(back, list) and isinstance(value, tuple) else value):
            none = " (it has no None)" if value is None else ""
            raise ValueError(f"{name} is {value!r}, which config.toml cannot keep{none}: read from there, it would be {back!r}")


def first_update(agent: AgentConfig, batch_size: int) -> int:
    """Return the agent step of the first update in batches of this size, if no episode ends before it."""
    first = max(agent.learning_starts, batch_size + agent.n_step)
    return first + -first % agent.update_every


WANDB = "wandb:init"  # the name by which the user says that metrics may be sent: see `outside`

# What may change between a checkpoint and the run that goes on from it, since nothing that was computed depends on it.
MAY_CHANGE = {
    "run_dir",
    "label",
    "checkpoint_every",
    "keep",
    "keep_last",
    "log",
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


def has_random_features(config: TrainConfig) -> bool:
    """Tell whether the freeze comes before the first update, and nobody else has trained the encoder."""
    step, agent = config.seer.freeze_step, config.agent
    trained = config.transfer.source is not None or outside.is_outside(agent.encoder)
    return isinstance(step, int) and step < first_update(agent, agent.batch_size) and not trained


def identity(config: TrainConfig, frozen: bool) -> dict[str, Any]:
    """Return the settings that a run keeps from its beginning to its end, as `check_same` has it, by name; none that is None.

    They tell its files from those of other runs. frozen: whether the encoder is, so that those of --seer are among them.
    """
    kept = {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in flat(config).items()
        if name not in MAY_CHANGE and name != "steps" and not name.endswith("learning_rate")
    }
    return {name: value for name, value in kept.items() if value is not None and (frozen or not name.startswith("seer."))}


def flat(config: TrainConfig) -> dict[str, Any]:
    """Return every setting by its dotted name in the file, and the agent's name: "agent.name", "seer.dtype"."""

    def inside(settings: dict[str, Any], above: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in settings.items():
            found |= inside(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
        return found

    return inside(asdict(config) | {"agent": {"name": name_of(config.agent), **asdict(config.agent)}}, "")


def name_of(agent: AgentConfig) -> str:
    """Return the command line's name of the agent with these settings."""
    ours = next((name for name, kind in AGENTS.items() if kind.Config is type(agent)), None)
    return ours or _outside[type(agent)]


def to_toml(config: TrainConfig) -> str:
    """Return the settings as TOML: every one that is not None, by its section."""

    def present(settings: dict[str, Any]) -> dict[str, Any]:
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in settings.items() if v is not None}
        return {k: present(v) if isinstance(v, dict) else v for k, v in plain.items()}

    settings = present(asdict(config))
    if not encodable(settings.get("run_dir", "")):
        del settings["run_dir"]  # TOML has no way to write it, and a run is where it is found
    settings["agent"] = {"name": name_of(config.agent), **settings["agent"]}
    return tomli_w.dumps(settings)


FORMER = {
    "action_repeat",
    "size",
    "fast_render",
    "camera",
}  # what 0.1.0 wrote for every environment


def from_toml(text: str) -> TrainConfig:
    """Return the settings in a TOML text that `to_toml` wrote. Raises ValueError for any other text, or as `outside.load`."""
    try:
        settings = tomllib.loads(text)
        agent = settings.pop("agent", None)
        named = {"env": settings.get("env"), "agent.name": agent.get("name") if isinstance(agent, dict) else None}
        if missing := [name for name, value in named.items() if not isinstance(value, str)]:
            raise ValueError(f"it does not say what {missing[0]} is")
        family = envs.family_of(settings["env"])
        kind = family.Config if family else EnvConfig
        known = {one.name for one in fields(kind)}
        written = settings.pop("environment", {})
        if isinstance(written, dict):
            written = {name: value for name, value in written.items() if name in known or name not in FORMER}
        sections = {"environment": kind, "replay": ReplayConfig, "seer": SeerConfig, "eval": EvalConfig,
                    "analysis": AnalysisConfig}  # fmt: skip
        transfer = settings.pop("transfer", {})
        if isinstance(transfer, dict) and "source" in transfer:
            transfer["source"] = Path(transfer["source"])
        settings["environment"] = written
        built: dict[str, Any] = {name: _build(kind, settings.pop(name, {}), f"{name}.") for name, kind in sections.items()}
        built["transfer"] = _build(TransferConfig, transfer, "transfer.")
        built["agent"] = _build(agent_called(agent.pop("name")).Config, agent, "agent.")
        if "run_dir" in settings:
            built["run_dir"] = Path(settings.pop("run_dir"))
        config: TrainConfig = _build(TrainConfig, settings | built, "")
        return config
    except outside.Unavailable:  # the text may well be right
        raise
    except (tomllib.TOMLDecodeError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not the settings of a run ({error})") from error


def _build(kind: type[Any], settings: Any, section: str) -> Any:
    """Return a dataclass whose fields have the types that it says. section: before their names. Raises ValueError."""
    if not isinstance(settings, dict):
        raise ValueError(f"{section.rstrip('.')} is {settings!r}, not a section")
    hints = get_type_hints(kind)
    for name, value in settings.items():
        if name not in hints:
            raise ValueError(f"there is no setting {section}{name}")
        if isinstance(value, list) and not _fits(value, hints[name]):  # TOML has lists only
            settings = settings | {name: (value := tuple(value))}
        if not _fits(value, hints[name]):
            raise ValueError(f"{section}{name} cannot be {value!r}")
    return kind(**settings)


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(value, bool):  # which Python counts as a number
        return hint is bool
    if isinstance(value, int | float) and abs(value) > 2**64:
        return False
    try:
        check_type(value, hint)
        return True
    except TypeCheckError:
        return False
