"""Settings that cannot be meant are refused, and nothing that can be meant is."""

import json
import os
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from seer_rl import bounds, outside
from seer_rl.agents.dqn import DQN, DQNConfig
from seer_rl.agents.rainbow import RainbowConfig
from seer_rl.agents.sac import SACConfig
from seer_rl.commands.main import main
from seer_rl.envs.base import EnvConfig
from seer_rl.envs.dmc import ControlConfig
from seer_rl.training import loop, rundir
from seer_rl.training.arguments import parse
from seer_rl.training.config import (
    AGENTS,
    AnalysisConfig,
    EvalConfig,
    ReplayConfig,
    SeerConfig,
    TrainConfig,
    agent_called,
    check,
    first_update,
    from_toml,
    identity,
    to_toml,
)
from seer_rl.training.run import Run

SECTIONS = (
    TrainConfig,
    ControlConfig,
    SeerConfig,
    ReplayConfig,
    EvalConfig,
    AnalysisConfig,
    *(agent.Config for agent in AGENTS.values()),
)


def numbers(hint: Any) -> bool:
    """Whether a type allows numbers."""
    return hint in (int, float) or any(numbers(part) for part in getattr(hint, "__args__", ()))


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_number_has_bounds(section: type[Any]) -> None:
    hints = get_type_hints(section, include_extras=True)
    plain = get_type_hints(section)
    names = [f.name for f in fields(section) if numbers(plain[f.name]) and not is_dataclass(plain[f.name])]
    assert [name for name in names if bounds._bounds(hints[name]) is None] == []


def test_the_defaults_of_every_agent_are_within_them() -> None:
    for name, kind in AGENTS.items():
        check(TrainConfig("atari/pong", agent=kind.Config()))
        assert from_toml(to_toml(TrainConfig("atari/pong", agent=kind.Config()))).agent == kind.Config(), name


def run(run_dir: Path, agent: Any, steps: int, **settings: Any) -> Run:
    config = TrainConfig("atari/pong", steps, eval=EvalConfig(episodes=1), agent=agent, run_dir=run_dir)
    return Run(replace(config, **settings))


@pytest.mark.parametrize(
    "agent",
    [
        DQNConfig(batch_size=4, n_step=3, learning_starts=0, update_every=4),
        DQNConfig(batch_size=4, n_step=1, learning_starts=9, update_every=1),
        RainbowConfig(batch_size=4, n_step=9, learning_starts=0, hidden=16),
    ],
    ids=["every fourth", "learning starts", "n steps"],
)
def test_the_shortest_run_that_is_allowed_learns_once(agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seer_rl.training.run.random_scores", lambda *_: [0.0])  # whole games of Pong take long
    monkeypatch.setattr("seer_rl.training.run.evaluate", lambda *_: [0.0])
    first = first_update(agent, agent.batch_size)
    shortest = run(tmp_path / "run", agent, first)
    loop.train(shortest)
    assert shortest.agent.updates == 1
    with pytest.raises(ValueError, match="ends before its first update"):
        run(tmp_path / "shorter", agent, first - 1)
    assert not (tmp_path / "shorter").exists()


def test_a_batch_after_the_freeze_must_fit_too(tmp_path: Path) -> None:
    agent = DQNConfig(batch_size=4, learning_starts=0, encoder="data-efficient")
    for settings, words in (
        ({"seer": SeerConfig(50, batch_size=100)}, "never holds a batch of --seer.batch-size 100"),
        ({"seer": SeerConfig(50, batch_size=90), "replay": ReplayConfig(capacity=20)}, "too few for batches of 90"),
    ):
        with pytest.raises(ValueError, match=words):
            run(tmp_path / "run", agent, 100, **settings)
    run(tmp_path / "run", agent, 100, seer=SeerConfig(50, batch_size=90)).close()
    assert not (tmp_path / "run").exists()


def test_what_can_be_meant_is_not_refused() -> None:
    base = TrainConfig("atari/pong", 3000)
    for settings in (
        {"seer": SeerConfig(0)},  # frozen before anything is learnt
        {"seer": SeerConfig("auto", earliest=0, latest=5000)},  # signals are recorded only
        {"seer": SeerConfig("auto", earliest=2000)},
        {"agent": RainbowConfig(learning_rate=0.0, discount=1.0, eval_epsilon=1.0)},
        {"agent": SACConfig(discount=0.0, critic_tau=1.0, encoder_tau=1.0)},
        {"analysis": AnalysisConfig(every=5000)},  # one snapshot, of the beginning
    ):
        check(replace(base, **settings))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("atoms = 51", "atoms = 1", "--agent.atoms must be at least 2"),
        ("hidden = 256", "hidden = -3", "--agent.hidden must be at least 1"),
        ("atari/pong", "atari/warlords", "is for two players"),
        ("seed = 0", "seed = -1", "--seed must be at least 0"),
        ('env = "atari/pong"', "env = 5", "cannot be read: not the settings of a run (it does not say what env is)"),
        ('name = "rainbow"', "", "(it does not say what agent.name is)"),
        ("hidden = 256", 'hidden = "a"', "(agent.hidden cannot be 'a')"),
        ("copies = 4", "copies = 4\nslices = 4", "(there is no setting seer.slices)"),
        ("[environment]", "environment = 5\n[elsewhere]", "(environment is 5, not a section)"),
    ],
)
@pytest.mark.parametrize("command", ["eval run", "play run --video out.mp4", "export run policy.onnx", "resume run"])
def test_an_edited_file_is_refused_as_the_command_line_is(
    command: str,
    before: str,
    after: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/config.toml").write_text(to_toml(TrainConfig("atari/pong")).replace(before, after))
    assert main(command.split()) == 2
    said = capsys.readouterr().err.splitlines()
    assert words in said[-1]
    assert not Path("out.mp4").exists()


def test_where_a_run_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "link").symlink_to(tmp_path)
    for good in ("run", "a/b/run", "link/run", "link/a/run", "x" * 255):
        rundir.require_place(tmp_path / good)
    for bad, words in (
        ("file/run", "file is no directory"),
        ("file/a/run", "file is no directory"),
        ("dangling/run", "dangling is a link to nothing"),
        ("x" * 256, "longer than the 255 bytes"),
        ("a/" + "ä" * 128 + "/run", "longer than the 255 bytes"),
    ):
        with pytest.raises(ValueError, match=words):
            rundir.require_place(tmp_path / bad)


@pytest.mark.skipif(os.geteuid() == 0, reason="everything may be written")
def test_a_directory_that_may_not_be_written_is_no_place(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="nothing may be written in"):
        rundir.require_place(tmp_path / "run")


@dataclass(frozen=True)
class MineConfig(DQNConfig):
    """Settings of an agent from elsewhere, of types that TOML does not have."""

    widths: tuple[int, ...] = (32, 32)
    clip: float | None = 10.0


class Mine(DQN):
    """An agent from elsewhere."""

    name = "mine"
    Config = MineConfig


class Unset(DQN):
    """Has a value where its settings' class should be."""

    name = "unset"
    Config = MineConfig()  # type: ignore[assignment]


def test_settings_of_an_agent_from_elsewhere_are_kept_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(outside.TRUSTED, f"{__name__}:Mine,{__name__}:Unset")
    kind = agent_called(f"{__name__}:Mine").Config
    config = TrainConfig("atari/pong", agent=kind(widths=(128, 64)))
    check(config)
    assert from_toml(to_toml(config)) == config
    assert json.loads(json.dumps(identity(config, frozen=True))) == identity(config, frozen=True)  # as a file of weights has it
    with pytest.raises(ValueError, match=r"agent\.clip is None, which config\.toml cannot keep .* it would be 10.0"):
        check(replace(config, agent=kind(clip=None)))
    with pytest.raises(ValueError, match=r"config\.toml cannot keep the settings of"):
        check(replace(config, agent=kind(widths={1, 2})))
    with pytest.raises(ValueError, match="has a Config that is no AgentConfig"):
        agent_called(f"{__name__}:Unset")


@pytest.mark.parametrize(
    ("seer", "words"),
    [
        (SeerConfig(freeze_step=9_997), "9,997 lies among the last 8 steps of the run of 10,000 steps"),
        (SeerConfig(freeze_step=10_000), "lies beyond the run of 10,000 steps"),
        (
            SeerConfig(freeze_step="auto", earliest=2_000, latest=9_993),
            "--seer.latest 9,993 lies among its last 8",
        ),
    ],
)
def test_a_freeze_among_the_last_steps_would_never_come(seer: SeerConfig, words: str) -> None:
    config = TrainConfig("atari/pong", steps=10_000, environment=EnvConfig(num_envs=8), seer=seer)
    with pytest.raises(ValueError, match=words):
        check(config)
    check(replace(config, seer=SeerConfig(freeze_step=9_992)))
    if config.seer.freeze_step != 10_000:
        check(config, new=False)  # an earlier version began it, and it may go on


def test_a_presets_freeze_among_the_last_steps_comes_earlier() -> None:
    with pytest.warns(UserWarning, match="it comes at step"):
        config = parse(["atari/qbert", "--preset", "quick", "--env.num-envs", "12", "--steps", "8004"])
    check(config)
