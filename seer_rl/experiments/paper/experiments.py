"""The paper's figures as experiments: environments, settings against settings, over what; and the sweeps that fill them."""

import functools
import shlex
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seer_rl import envs
from seer_rl.experiments.results import CONVERGED, HOW, NEVER, Axis, Result, differing
from seer_rl.text import visible
from seer_rl.training import build
from seer_rl.training.arguments import parse
from seer_rl.training.config import ReplayConfig, TrainConfig, TransferConfig, first_update, name_of
from seer_rl.training.process import prepare
from seer_rl.training.rehearsal import dry_run

ATARI = tuple(
    f"atari/{game}" for game in ("alien", "amidar", "bank_heist", "crazy_climber", "krull", "private_eye", "qbert", "seaquest")
)
DMC = tuple(f"dmc/{task}" for task in ("cartpole-swingup", "finger-spin", "reacher-easy", "cheetah-run", "walker-walk"))
SEEDS = (0, 1, 2, 3, 4)  # as many as the paper's runs
BASELINE = "--seer.freeze-step None"


@dataclass(frozen=True)
class Experiment:
    """A figure: return over `axis` in every environment, an arm's settings being those after `seer train ENV`."""

    title: str
    envs: tuple[str, ...]
    settings: str
    arms: tuple[tuple[str, str], ...]  # name, settings
    axis: Axis
    before: tuple[str, ...] = ()  # commands whose runs the arms begin with


def _donor(steps: int) -> str:
    """The run that others begin with; the paper's learnt to stand for 60,000 steps."""
    settings = f"--preset paper {BASELINE} --steps {steps} --run-dir runs/walker-stand-{steps}"
    return f"seer train dmc/walker-stand {settings}"


def _pair(agent: str) -> tuple[tuple[str, str], ...]:
    return (agent, BASELINE), (f"{agent}+SEER", "")


FIGURES: dict[str, Experiment] = {
    "figure2": Experiment("CURL with and without SEER", DMC, "--preset paper", _pair("CURL"), "flops"),
    "figure3": Experiment("Rainbow with and without SEER", ATARI, "--preset paper", _pair("Rainbow"), "flops"),
    "figure4": Experiment("Rainbow in 0.07 GB", ATARI, "--preset paper-memory", _pair("Rainbow"), "steps"),
    "figure5": Experiment("CURL in 0.03 or 0.06 GB", DMC, "--preset paper-memory", _pair("CURL"), "steps"),
    "figure6a": Experiment(
        "Batches of 512 after the freeze, of 128 without", ("dmc/cheetah-run",), "--preset paper-batch",
        (("CURL, batch 128", f"{BASELINE} --seer.batch-size None"), ("CURL+SEER, batch 512", "")), "steps",
    ),
    "figure6b": Experiment(
        "IMPALA encoder", ("dmc/cartpole-swingup", "dmc/walker-walk"), "--preset paper-impala", _pair("CURL"), "flops"
    ),
    "figure7a": Experiment(
        "From walker-stand to walker-walk", ("dmc/walker-walk",), "--preset paper",
        (("CURL", BASELINE), ("CURL+SEER, transferred", "--transfer runs/walker-stand-60000")), "flops", (_donor(60_000),),
    ),
    "figure7b": Experiment(
        "Where encoders look", ("atari/alien", "atari/qbert", "dmc/walker-walk"), f"--preset paper {BASELINE}",
        (("snapshots", "--analysis.every 10000"),), "steps",
    ),
    "figure7c": Experiment(
        "Layers and themselves 10,000 steps earlier", ("dmc/walker-walk",), f"--preset paper {BASELINE}",
        (("snapshots", "--analysis.every 10000"),), "steps",
    ),
    "figure8": Experiment(
        "From walker-stand's encoder", ("dmc/cheetah-run", "dmc/hopper-hop"), "--preset paper",
        (("CURL", BASELINE), ("CURL+SEER, transferred", "--transfer runs/walker-stand-60000 --transfer.only encoder")),
        "flops", (_donor(60_000),),
    ),
    "figure9a": Experiment(
        "Convolutions frozen", ("dmc/walker-walk",), "--preset paper --transfer runs/walker-stand-60000",
        tuple((f"{i} frozen", f"--seer.layers {i}") for i in (1, 2, 3, 4)), "flops", (_donor(60_000),),
    ),
    "figure9b": Experiment(
        "Steps in walker-stand", ("dmc/walker-walk",), "--preset paper",
        tuple((f"{n} steps", f"--transfer runs/walker-stand-{n}") for n in (20_000, 40_000, 60_000)), "flops",
        (_donor(20_000), _donor(40_000), _donor(60_000)),
    ),
    "figure10": Experiment("CURL in 0.03 or 0.06 GB", DMC, "--preset paper-memory", _pair("CURL"), "flops"),
    "figure11": Experiment("Rainbow in 0.07 GB", ATARI, "--preset paper-memory", _pair("Rainbow"), "flops"),
    "figure12": Experiment("CURL with and without SEER", DMC, "--preset paper", _pair("CURL"), "steps"),
    "figure13": Experiment("Rainbow with and without SEER", ATARI, "--preset paper", _pair("Rainbow"), "steps"),
}  # fmt: skip


@functools.cache
def config(experiment: Experiment, env: str, arm: str) -> TrainConfig:
    """Settings of an arm's runs in `env`."""
    return parse([env, *shlex.split(experiment.settings), *shlex.split(dict(experiment.arms)[arm])])


def kind(run: Result) -> tuple[Any, ...]:
    """Say what makes a run one of an arm rather than another's.

    That is its agent, encoder, batches, memory, and what it began with; and of its traits all but the step of the freeze.
    """
    settings, agent, replay = run.config, run.config.agent, run.config.replay
    limited = replay.memory is not None or (replay.capacity is not None and replay.capacity < settings.steps)
    batch, layers = (None, None) if run.frozen == NEVER else (settings.seer.batch_size, settings.seer.layers)
    donor = (settings.transfer.source.name, settings.transfer.only) if settings.transfer.source else None
    rule = run.frozen if run.frozen in (NEVER, CONVERGED) else "at a step"
    traits = tuple(run.traits[name] for name in run.traits if name != "frozen")
    return name_of(agent), agent.encoder, rule, *traits, limited, agent.batch_size, batch, donor, layers


def members(experiment: Experiment, env: str, arm: str, found: Iterable[Result]) -> list[Result]:
    """List the runs that belong to an arm in `env`, by seed.

    All were frozen at the same step: the paper's, or where no run was frozen then, the one at which most were. All have the
    same settings otherwise, again the paper's or those that most have; only their lengths may differ. Runs without an
    evaluation, or not frozen yet, have no say in that. Of a seed there is one run, the one that came farthest: a copy is no
    second measurement.
    """
    wanted = Result(Path(), config(experiment, env, arm), {})
    same_env = [result for result in found if envs.plain(result.config.env) == envs.plain(env)]
    fitting = [(run, _otherwise(run, wanted)) for run in same_env if kind(run) == kind(wanted)]
    known = [one for one in fitting if len(one[0].steps) and (one[0].frozen == NEVER or one[0].freeze_step is not None)]
    known = known or fitting
    frozen = _most(((run.frozen, run.config.seed) for run, _ in known), wanted.frozen)
    most = _most(((other, run.config.seed) for run, other in known if run.frozen == frozen), frozenset[str]())
    alike = sorted((run for run, other in fitting if (run.frozen, other) == (frozen, most)), key=lambda run: run.step)
    return sorted({run.config.seed: run for run in alike}.values(), key=lambda run: run.config.seed)


def _most(values: Iterable[tuple[Any, int]], wanted: Any) -> Any:
    """Return `wanted` where it is among the values, and else the value that most seeds have. values: with the seed of each."""
    counts = Counter(value for value, _ in dict.fromkeys(values))  # in the order of the runs, whatever strings hash to
    return wanted if wanted in counts else max(counts, key=counts.__getitem__, default=wanted)


def _differing(run: Result, wanted: Result) -> dict[str, str]:
    """Return the settings that are not as wanted, by name, as "name value (value)"."""
    _, (ours, papers) = differing([run, wanted])
    names = [name for name in ours.keys() | papers.keys() if name not in HOW]
    return {name: visible(f"{name} {ours.get(name)} ({papers.get(name)})") for name in names}


def _otherwise(run: Result, wanted: Result) -> frozenset[str]:
    """Return what differs but the length, the freeze, and snapshots; of a run that was never frozen, nothing of its freeze."""
    freeze = ("seer.",) if run.frozen == NEVER else ("seer.freeze_step", "seer.earliest", "seer.latest")
    passed = ("steps", "analysis.", "transfer.source", *freeze)  # `kind` looks at the name of what a run began with
    return frozenset(text for name, text in _differing(run, wanted).items() if not name.startswith(passed))


def departures(experiment: Experiment, env: str, arm: str, runs: Iterable[Result]) -> set[str]:
    """Return the settings of `runs` that are not the paper's, as "name value (value)"."""
    wanted = Result(Path(), config(experiment, env, arm), {})
    return {text for run in runs for text in _differing(run, wanted).values()}


def told(departing: dict[str, list[str]]) -> list[str]:
    """Say which settings are not the paper's, and where: in a sentence, or where there are none, in no sentence."""
    if not departing:
        return []
    where = (f"{setting} of {', '.join(places)}" for setting, places in sorted(departing.items()))
    return [f"Where our settings are not the paper's, ours (the paper's): {'; '.join(where)}."]


def plan(experiment: Experiment) -> str:
    """The sweep that fills the figure, as TOML."""

    def quoted(texts: Iterable[str]) -> str:
        return "[" + ", ".join(f'"{text}"' for text in texts) + "]"

    arms = ", ".join(f'"{arm_name(name)}" = "{settings}"' for name, settings in experiment.arms)
    first = "".join(f"# before it: {command}\n" for command in experiment.before)
    return (
        f"{first}envs = {quoted(experiment.envs)}\nseeds = [{', '.join(map(str, SEEDS))}]\n"
        f'settings = "{experiment.settings}"\narms = {{{arms}}}\n'
    )


def arm_name(name: str) -> str:
    """Of an arm in directories."""
    return name.replace(", ", "-").replace(" ", "")


@dataclass(frozen=True)
class Estimate:
    """Cost of an experiment with all seeds: operations (the paper's count), and seconds on one core of this machine."""

    flops: float
    seconds: float


def estimate(experiment: Experiment) -> Estimate:
    """Of all runs: operations by the steps on each side of the freeze; seconds by a measurement here.

    Speeds are measured in the experiment's first environment, and in the others taken as inverse to the operations of a step.
    """
    flops = seconds = 0.0
    measured: dict[bool, tuple[float, float]] = {}
    for env in experiment.envs:
        for arm, _ in experiment.arms:
            settings = config(experiment, env, arm)
            freeze = settings.seer.freeze_step
            assert freeze != "auto"
            if not measured.keys() >= {False, freeze is not None}:
                measured |= measure(settings)
            with closing(build.make_env(settings, training=False)) as built:
                costs = build.costs(build.make_agent(settings, built, 0), built, settings)
            begins = first_update(settings.agent, settings.agent.batch_size)
            sides = [(False, 0, settings.steps if freeze is None else freeze)]
            if freeze is not None:
                sides.append((True, freeze, settings.steps))
            for frozen, begin, end in sides:
                updates = max(0, end - max(begin, begins)) * (settings.seer.replay_ratio if frozen else 1)
                updates //= settings.agent.update_every
                acts = zip(costs.act(frozen), costs.update(frozen), strict=True)
                paper, true = ((end - begin) * act + updates * update for act, update in acts)
                flops += paper * len(SEEDS)
                took, operations = measured[frozen]
                seconds += took * true / operations * len(SEEDS)
    return Estimate(flops, seconds)


def measure(settings: TrainConfig, steps: int = 8) -> dict[bool, tuple[float, float]]:
    """Seconds and true operations of an agent step here, on images (False) and on embeddings (True); not compiled."""
    prepare(settings)
    found = {}
    batch = max(settings.agent.batch_size, settings.seer.batch_size or 0)
    replay = ReplayConfig(capacity=8 * batch + settings.agent.n_step + 8)
    settings = replace(settings, replay=replay, compile=False, transfer=TransferConfig())  # other weights cost the same
    stored = 2 * batch + settings.agent.n_step
    with tempfile.TemporaryDirectory() as directory, dry_run(settings, Path(directory) / "run", stored) as run:
        for frozen in (False, True) if settings.seer.freeze_step is not None else (False,):
            if frozen:
                run.freeze()
            run.advance()
            begun = time.perf_counter()
            for _ in range(steps):
                run.advance()
            share = (settings.seer.replay_ratio if frozen else 1) / settings.agent.update_every
            operations = run.costs.act(frozen)[1] + run.costs.update(frozen)[1] * share
            found[frozen] = (time.perf_counter() - begun) / steps, operations
    return found
