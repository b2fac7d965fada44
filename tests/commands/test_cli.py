"""The command line as a user meets it: what it prints, what it refuses, what it leaves."""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch

from seer_rl.commands.main import main

SETTINGS = "--steps 300 --seer.freeze-step 200 --agent.learning-starts 100 --eval.episodes 1 --run-dir run"
SETTINGS += " --no-compile --agent.hidden 16 --agent.batch-size 8"
TINY = f"train atari/qbert {SETTINGS}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a finished run in `run`."""
    path = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert main(TINY.split()) == 0
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train", "ENV"),
        ("train atari/sequest", "did you mean seaquest"),
        ("train alien", "such as atari/alien or dmc/walker-walk"),
        ("train dmc/walker-wlak", "did you mean walker-walk"),
        ("train dmc/walker-walk --agent rainbow", "are continuous, which rainbow cannot choose: use --agent curl"),
        ("train atari/alien --agent curl", "are discrete, which curl cannot choose: use --agent rainbow or dqn"),
        ("train dmc/walker-walk --env.size 64", "frames of 64x64 are smaller than the crop of 84x84"),
        ("train dmc/walker-walk --agent sac --env.size 12", "too small for the sac-ae encoder"),
        ("train dmc/walker-walk --env.action-repeat 0", "at least 1"),
        ("train dmc/walker-walk --seer.freeze-step 9 --seer.copies 0", "at least 1"),
        ("train dmc/walker-walk --seer.batch-size 512", "needs --seer.freeze-step"),
        ("train dmc/walker-walk --seer.freeze-step 9 --replay.memory 3MB", "too few for batches of 128"),
        ("train dmc/walker-walk --seer.freeze-step 9 --seer.layers 5", "there is no 5"),
        ("train dmc/walker-walk --preset quick", "there is no preset 'quick' for dmc/ environments: choose paper or"),
        ("train atari/alien --env.fast-render", "atari/alien has no setting --env.fast-render"),
        ("train atari/alien --replay.memory 100KB", "at least 25"),
        ("train atari/alien --replay.memory 300KB", "too few for batches of 32"),
        ("train atari/alien --agent dqn --replay.memory 400KB --seer.freeze-step 9", "31 steps of embeddings"),
        ("train atari/alien --replay.memory lots", "'lots' is not a size"),
        ("train atari/alien --replay.memory 1MB --replay.capacity 10", "not both"),
        ("train atari/alien --steps 1000 --seer.freeze-step 1000", "beyond the run"),
        ("train atari/alien --seer.freeze-step -1", "at least 0"),
        ("train atari/alien --seer.freeze-step 10 --seer.layers 3", "layers 1 to 2: there is no 3"),
        ("train atari/alien --seer.layers 1", "needs --seer.freeze-step"),
        ("train atari/alien --seer.dtype uint4", "needs --seer.freeze-step"),
        ("train atari/alien --seer.dtype uint2", "--seer.dtype"),
        ("train atari/alien --seer.dtype uint8 --seer.freeze-step 0", "freeze at step 32, or better 2,000, or store float16"),
        ("train atari/alien --seer.dtype uint4 --transfer there", "at --seer.freeze-step 0: freeze at step 32"),
        ("train dmc/walker-walk --agent.slow-every 1000", "at most 100"),
        ("train atari/alien --seer.replay-ratio 4", "needs --seer.freeze-step"),
        ("train atari/alien --seer.freeze soon", "'soon' is not a whole number, auto or None"),
        ("train atari/alien --seer.freeze auto --seer.latest 0", "at least 1"),
        ("train atari/alien --seer.freeze auto --seer.earliest 8000 --seer.latest 5000", "lies before --seer.earliest 8,000"),
        ("train atari/alien --seer.freeze auto --steps 9000", "begins to look at step 10,000"),
        ("train atari/alien --seer.freeze 500 --seer.earliest 400", "is for --seer.freeze auto"),
        ("train atari/alien --seer.freeze 500 --seer.latest 50000", "is for --seer.freeze auto"),
        ("train atari/alien --analysis.every 0", "at least 1"),
        ("train atari/alien --steps ten", "--steps: 'ten' is not a whole number (seer train --help)"),
        ("train atari/alien --agent.discount ten", "--agent.discount: 'ten' is not a number"),
        ("train atari/alien --device gpu", "--device must be auto, cpu or cuda, not 'gpu'"),
        ("train atari/alien --preset", "--preset needs a value"),
        ("train --nonsense", "there is no option --nonsense"),
        ("train atari/alien --steps 0", "at least 1"),
        ("train atari/alien --seed -1", "at least 0"),
        ("train atari/alien --agent.learning-rate -1", "at least 0"),
        ("train atari/alien --agent.learning-rate nan", "at least 0"),
        ("train atari/alien --agent.batch-size 0", "at least 1"),
        ("train atari/alien --agent.discount 1.5", "at most 1"),
        ("train atari/alien --agent ppo", "choose rainbow or dqn or curl"),
        ("train atari/alien --preset papr", "there is no preset"),
        ("train atari/alien --frobnicate 3", "--frobnicate"),
        ("train atari/alien --run-dir .", "exists already"),
        ("train atari/alien --steps 1", "a run of 1 steps ends before its first update, which is at step 1,600"),
        ("train dmc/cartpole-balance --steps 100", "ends before its first update"),
        ("train atari/alien --steps 2000 --agent.batch-size 2000", "ends before its first update"),
        ("train atari/alien --agent dqn --steps 5002 --agent.learning-starts 5001", "which is at step 5,004"),
        ("train atari/alien --steps 2000 --seer.freeze 1700 --seer.batch-size 5000", "never holds a batch"),
        ("train atari/alien --steps 51 --agent.learning-starts 0", "its first update, which is at step 52"),  # 32 of 20 steps
        ("train atari/alien --steps 2000 --seer.freeze auto --seer.earliest 5000", "never freezes"),
        ("train atari/alien --steps 2000 --seer.freeze auto --seer.latest 1000", "lies before its first update at step 1,600"),
        ("train atari/alien --steps 3000 --seer.freeze 1700 --replay.capacity 60 --seer.batch-size 500", "batches of 500"),
        ("train atari/alien --replay.memory 1" + 400 * "0", "more than there can be"),
        ("train dmc/walker-walk --agent drqv2 --agent.shift 84", "would move frames of 84x84 out of sight"),
        ("train atari/al/ien", "there is no environment"),
        ("train --run-dir dmc/x atari/alien --agent.atoms 1", "at least 2"),
        ("train --label=dmc/x --no-compile atari/alien --agent.atoms 1", "at least 2"),
        ("train atari/combat", "is for two players"),
        ("train atari/alien --seed 18446744073709551616", "--seed cannot be"),
        ("train atari/alien --agent.atoms 1", "at least 2"),
        ("train atari/alien --agent.value-range 0", "at least 1e-30"),
        ("train atari/alien --agent.adam-eps 1e-300", "at least 1e-30"),
        ("train atari/alien --agent.eval-epsilon 7", "at most 1"),
        ("train atari/alien --replay.priority-exponent 2", "at most 1"),
        ("train atari/alien --seer.freeze 9 --seer.copies 1000000", "at most 100"),
        ("train atari/alien --agent.hidden 100000", "at most 10,000"),
        ("train dmc/walker-walk --agent.initial-temperature 0", "at least 1e-30"),
        ("train dmc/walker-walk --agent.critic-tau 1.5", "at most 1"),
        ("train dmc/walker-walk --env.size 513", "at most 512"),
        ("train dmc/walker-walk --agent.crop 120", "smaller than the crop of 120x120"),
        ("train --agent.crop 120 dmc/walker-walk", "smaller than the crop of 120x120"),
        ("eval nowhere --device gpu", "--device must be auto, cpu or cuda, not 'gpu'"),
        ("eval nowhere --seed 18446744073709551616", "--seed cannot be 18446744073709551616"),
        ("play nowhere --video x.mp4 --seed -1", "--seed must be at least 0, not -1"),
        ("sweep --envs atari/alien --seeds 18446744073709551616", "a seed must be a whole number from 0 to"),
        ("sweep --envs atari/alien --settings=--seed=3", "--seed cannot be among the settings of a sweep"),
        ("sweep --envs atari/combat", "is for two players"),
        ("sweep --envs atari/alien --seeds", "a plan needs seeds"),
        ("sweep --envs atari/alien --settings=--help", "--help cannot be among the settings"),
        ("sweep --envs atari/alien --settings=--run_dir=x", "--run-dir cannot be among the settings"),
        ("sweep --envs atari/alien --arms a=--label=x", "--label cannot be among the settings"),
        ("sweep --envs atari/alien --memory 0", "is no memory for"),
        ("sweep --envs atari/alien --seeds 1 2 --memory 1 --jobs 9", "is no memory for 2 runs"),
        ("report . --every 100000000000000000000", "--every must be at least 1 and at most 86,400"),
        ("paper table1 --flops nan", "--flops must be more than 0"),
        ("eval nowhere", "is no run"),
        ("eval", "RUN is missing"),
        ("eval --nonsense", "there is no option --nonsense"),
        ("eval --nonsense run", "there is no option --nonsense"),
        ("eval run too", "'too' is one word too many"),
        ("eval run --episodes", "--episodes needs a value"),
        ("eval run --episodes 0", "--episodes must be at least 1, not 0"),
        ("export --nonsense run x.onnx", "there is no option --nonsense"),
        ("play run --vidoe x.mp4", "there is no option --vidoe"),
        ("play", "RUN and --video are missing"),
        ("resume run --steps 0", "--steps must be at least 1"),
        ("sweep plan.toml --seeds 1 2", "give a plan or --envs"),
        ("sweep --envs atari/alien --jobs 0", "--jobs must be at least 1"),
        ("sweep --envs atari/alien --seeds x", "'x' is not a whole number"),
        ("analyze", "say which: seer analyze attention, seer analyze similarity, seer analyze signals"),
        ("analyze attention", "RUN is missing"),
        ("analyze attraction run", "there is no command 'analyze attraction'"),
        ("analyze similarity run --lag 0", "--lag must be at least 1"),
        ("paper plan", "WHAT is missing"),
        ("play nowhere --video x.mp4", "is no run"),
        ("plot", "at least one"),
        ("plot nowhere", "is no run"),
        ("frobnicate", "there is no command"),
    ],
)
def test_a_mistake_gets_one_sentence_and_writes_nothing(
    arguments: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert err.startswith("seer: ")
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_run_tells_what_it_gained(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    assert {p.name for p in (finished / "run").iterdir() if not p.name.startswith("events")} == {
        "agent.safetensors", "clock.csv", "config.toml", "curves.png", "ended.json", "metrics.csv",
    }  # fmt: skip
    assert main(["eval", "run", "--episodes", "2"]) == 0
    first = capsys.readouterr().out
    assert "over 2 games" in first
    assert main(["eval", "run", "--episodes", "2"]) == 0
    assert capsys.readouterr().out == first  # seeded
    assert main(["plot", "run", "--output", "both.png"]) == 0
    assert (finished / "both.png").exists()
    shutil.copytree(finished / "run", finished / "other")
    other = finished / "other" / "config.toml"
    other.write_text(other.read_text("utf-8").replace("atari/qbert", "atari/pong"))
    assert main(["plot", "run", "other"]) == 2
    assert "these runs are of atari/pong, atari/qbert" in capsys.readouterr().err
    assert main(["play", "run", "--video", "film.mp4"]) == 0
    film = (finished / "film.mp4").read_bytes()
    assert len(film) > 10_000
    with at_most(8192):  # bytes of a file; FFmpeg then ends without a word
        assert main(["play", "run", "--video", "film.mp4"]) == 2
        assert capsys.readouterr().err == "seer: film.mp4 could not be written whole: FFmpeg failed\n"
        assert main(["plot", "run", "--output", "both.png"]) == 2
        assert capsys.readouterr().err == "seer: both.png: file too large\n"
    assert (finished / "film.mp4").read_bytes() == film
    assert not [path.name for path in finished.iterdir() if path.name.startswith(".")]  # nothing is left of it
    assert main(TINY.split()) == 2
    assert "run holds a run that has ended, at step" in capsys.readouterr().err


@contextlib.contextmanager
def at_most(size: int) -> Iterator[None]:
    """Let the system refuse files that are larger than `size` bytes, to this process and those it starts."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "seer train ENV" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    text = capsys.readouterr().out
    for word in ("--seer.freeze-step", "--replay.memory", "--agent.learning-rate", "--preset paper"):
        assert word in text
    assert main(["analyze", "--help"]) == 0
    assert capsys.readouterr().out.count("\n") == 3


def test_help_waits_for_nothing_that_only_the_work_needs() -> None:
    """In a process of its own: what a test has imported stays."""
    code = "import sys, contextlib; from seer_rl.commands.main import COMMANDS, main\n"
    code += "main(['--help']); assert 'tyro' not in sys.modules\n"
    code += "for name in COMMANDS.keys() - {'train'}:\n"
    code += "    with contextlib.suppress(SystemExit): main([*name.split(), '--help'])\n"
    code += "    heavy = {'torch', 'numpy', 'gymnasium', 'rich', 'matplotlib', 'ray'} & sys.modules.keys()\n"
    code += "    assert not heavy, (name, heavy)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("resume", "paper plan", "analyze signals"):
        assert f"usage: seer {name} [-h]" in done.stdout


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("link", "runs is a link to nothing"),
        ("file/run", "file is no directory"),
        ("dangling/a/run", "dangling is a link to nothing"),
        ("a/" + "x" * 300 + "/run", "longer than the 255 bytes"),
        ("", "exists already"),
        ("file", "exists already"),
        ("dangling", "exists already"),
    ],
)
def test_a_place_that_no_run_can_be_in_is_refused(
    where: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("dangling").symlink_to("nowhere")
    if where == "link":  # in place of the default directory of runs
        Path("runs").symlink_to("nowhere")
    settings = [] if where == "link" else ["--run-dir", where]
    assert main(["train", "atari/qbert", "--steps", "60", "--agent.learning-starts", "40", *settings]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert Path("file").read_text("utf-8") == "mine"
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("grid = []", "at least one"),
        ('envs = ["atari/alien"]\nseeds = [true]', "a seed must be a whole number"),
        ('envs = ["atari/alien"]\nseeds = [18446744073709551616]', "a seed must be a whole number"),
        ('envs = ["atari/alien"]\nsettings = "--run-dir x"', "--run-dir cannot be among"),
        ('envs = ["atari/alien"]\narms = {"a\\nb" = ""}', "an arm cannot be called"),
        (b"envs = ['\xff']", "cannot be read as a plan"),
        (None, "cannot be read as a plan"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(
    plan: str | bytes | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if plan is None:
        os.mkfifo("plan.toml")
    else:
        Path("plan.toml").write_bytes(plan if isinstance(plan, bytes) else plan.encode())
    assert main(["sweep", "plan.toml"]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / "agent.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR."), "damaged"),
        (lambda run: (run / "agent.safetensors").write_bytes((run / "agent.safetensors").read_bytes()[:-100]), "damaged"),
        (lambda run: (run / "agent.safetensors").unlink(), "holds no agent yet"),
        (lambda run: (run / "config.toml").write_text("nonsense"), "cannot be read"),
        (lambda run: other_agent(run), "holds a dqn agent for atari/pong"),
        (
            lambda run: (run / "config.toml").write_text((run / "config.toml").read_text("utf-8").replace("qbert", "alien")),
            "is of a run whose env is",
        ),
    ],
    ids=["code", "cut", "missing", "config", "other agent", "other game"],
)
@pytest.mark.filterwarnings("ignore:files of weights written by version 0.1.0")
def test_damaged_and_foreign_runs_are_refused(
    damage: object,
    words: str,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / "run", tmp_path / "run")
    damage(tmp_path / "run")  # type: ignore[operator]
    assert main(["eval", "run"]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "hacked").exists()


def other_agent(run: Path) -> None:
    import torch

    data = safetensors.torch.save({"x": torch.zeros(1)}, {"seer-rl": '{"agent": "dqn", "env": "atari/pong"}'})
    (run / "agent.safetensors").write_bytes(data)
