"""`seer analyze` on real runs: what the pictures and numbers are made of, against the formulas, and what is refused."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seer_rl import outside
from seer_rl.agents.dqn import DQN, DQNConfig
from seer_rl.commands.main import main
from seer_rl.convergence import linear_cka
from seer_rl.experiments import inspect
from seer_rl.experiments.activations import svcca
from seer_rl.experiments.paper import figures
from seer_rl.training import build, checkpoint
from seer_rl.training.logger import CLOCK, METRICS
from seer_rl.training.weights import tensors

SETTINGS = (
    "--agent.hidden 16 --agent.learning-starts 60 --agent.batch-size 8 --eval.episodes 1 --no-compile --analysis.every 100"
)
RUNS = {
    "qbert": f"train atari/qbert --steps 300 --eval.every 300 --seer.freeze-step 100 {SETTINGS}",
    "cartpole": f"train dmc/cartpole-balance --steps 200 --eval.every 200 --env.action-repeat 40 --env.fast-render {SETTINGS}",
}


@pytest.fixture(scope="module", autouse=True)
def few() -> object:
    """Fewer observations, for time's sake."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "OBSERVATIONS", 200)
        yield


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / str(request.param)
    assert main([*RUNS[request.param].split(), "--run-dir", str(directory)]) == 0
    return directory


def test_snapshots_are_the_weights_of_their_step(run: Path) -> None:
    config = checkpoint.load_config(run)
    steps = checkpoint.snapshots(run)
    assert steps == list(range(0, config.steps + 1, 100))
    agent, env = build.trained(run, config)
    env.close()
    last = {name: tensor.clone() for name, tensor in tensors(agent).items()}
    checkpoint.load_snapshot(run, steps[0], agent, config)
    changed = {name for name, tensor in tensors(agent).items() if not torch.equal(last[name], tensor)}
    assert any("conv1" in name for name in changed)
    assert not any(name.startswith("target_") for name in changed)
    checkpoint.load_snapshot(run, steps[-1], agent, config)
    assert all(torch.equal(last[name], tensor) for name, tensor in tensors(agent).items())
    assert checkpoint.snapshot(run, 0).stat().st_size < (run / checkpoint.AGENT).stat().st_size


def test_attention(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "attention", str(run), "--frames", "3", "50"]) == 0
    assert capsys.readouterr().out.strip() == str(run / "attention.png")
    assert (run / "attention.png").stat().st_size > 10_000
    rows = inspect.attention(run, (3, 50))
    config = checkpoint.load_config(run)
    assert [row.steps for row in rows] == [checkpoint.snapshots(run)] * 2
    agent, env = build.trained(run, config)
    env.close()
    obs = torch.from_numpy(inspect.probe(run)[[3, 50]])
    if config.env.startswith("atari"):  # conv1: conv2's map is 3x3
        assert rows[0].layer == "conv1"
        x = torch.relu(agent.lower.get_submodule("conv1")(obs / 255))
    else:
        assert rows[0].layer == "conv4"
        x = obs[:, :, 8:92, 8:92] / 255
        for i in (1, 2, 3, 4):
            x = torch.relu(agent.lower.get_submodule(f"conv{i}")(x))
    expected = F.softmax(x.abs().mean(1).flatten(1), dim=1)
    for row, one in zip(rows, expected, strict=True):
        assert row.maps[-1].sum() == pytest.approx(1, abs=1e-5)
        assert row.maps[-1].flatten() == pytest.approx(one.detach().numpy(), abs=1e-6)
        assert row.image.shape == ((84, 84, 3))


def test_similarity(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Frozen layers score 1; the numbers are the measures of the layers' real activations."""
    assert main(["analyze", "similarity", str(run), "--lag", "100"]) == 0
    said = capsys.readouterr().out
    with (run / "similarity.csv").open() as file:
        rows = {(int(row["step"]), row["layer"]): row for row in csv.DictReader(file)}
    config = checkpoint.load_config(run)
    assert {step for step, _ in rows} == set(range(100, config.steps + 1, 100))
    agent, env = build.trained(run, config)
    env.close()
    obs = inspect.probe(run)
    if config.env.startswith("atari"):
        assert {layer for _, layer in rows} == {
            "conv1",
            "conv2",
            *(f"head.{s}.{layer}" for s in ("value", "advantage") for layer in ("hidden.fc1", "fc2")),
        }
        for layer in ("conv1", "conv2"):
            assert float(rows[200, layer]["cka"]) == pytest.approx(1, abs=1e-9)  # frozen at 100
            assert float(rows[200, layer]["svcca"]) == pytest.approx(1, abs=1e-9)
            assert float(rows[100, layer]["cka"]) < 1 - 1e-6
        layer, step = "head.value.hidden.fc1", 300
    else:
        names = {layer for _, layer in rows}
        assert {"conv1", "conv4", "embedding.actor.fc1", "actor.fc4", "critic.q1.hidden.fc2", "critic.q2.fc4"} <= names
        layer, step = "embedding.critic.fc1", 200
    now = inspect.activations(inspect.at(run, step, agent, config), obs)[layer]
    before = inspect.activations(inspect.at(run, step - 100, agent, config), obs)[layer]
    # Computed a hundred at a time, in another order.
    assert float(rows[step, layer]["cka"]) == pytest.approx(linear_cka(before.double(), now.double()), abs=1e-6)
    if rows[step, layer]["svcca"] == "nan":
        assert f"no SVCCA of {layer}" in said
    else:
        assert float(rows[step, layer]["svcca"]) == pytest.approx(svcca(before, now), abs=1e-6)
    assert (run / "similarity.png").stat().st_size > 10_000


def test_the_same_observations_are_looked_at_again(run: Path) -> None:
    first = inspect.probe(run)
    assert first.dtype == np.uint8
    assert len(first) == 200
    assert first.shape[1] in (4, 9)
    assert len(np.unique(first.reshape(200, -1), axis=0)) > 50
    assert np.array_equal(first, inspect.probe(run))
    path = run / checkpoint.ANALYSIS / inspect.PROBE
    path.unlink()
    assert np.array_equal(first, inspect.probe(run))  # taken anew, from the same games
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    with pytest.raises(ValueError, match="is damaged"):
        inspect.probe(run)
    path.write_bytes(whole)


def test_a_film(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imageio = pytest.importorskip("imageio.v2")
    if "cartpole" in run.name:
        pytest.skip("its games are long")
    assert main(["analyze", "attention", str(run), "--layer", "conv1", "--video", str(tmp_path / "film.mp4")]) == 0
    with imageio.get_reader(tmp_path / "film.mp4") as reader:
        assert reader.get_data(40).shape == (84 * 4, 2 * 84 * 4, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"film.mp4"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("analyze", "say which: seer analyze attention"),
        ("analyze colours RUN", "there is no command 'analyze colours'"),
        ("analyze attention nowhere", "is no run"),
        ("analyze attention RUN --frames 200", "the run keeps 0 to 199"),
        ("analyze attention RUN --layer conv9", "there is no convolution 'conv9': choose conv1"),
        ("analyze attention RUN -o picture.txt", "must end in .png or .pdf"),
        ("analyze attention RUN -o nowhere/picture.png", "there is no directory nowhere"),
        ("analyze attention RUN -o picture.png --video film.gif", "must end in .mp4"),
        ("analyze similarity RUN --lag 150", "lie 150 steps apart: it has 0, 100, 200"),
        ("analyze similarity RUN --lag 0", "--lag must be at least 1, not 0"),
        ("analyze similarity RUN --lag 77", "lie 77 steps apart"),
        ("analyze similarity EMPTY", "has no snapshots to look into: train it with --analysis.every"),
    ],
)
def test_bad_input(arguments: str, words: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                   capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in (checkpoint.CONFIG, checkpoint.AGENT):
        (empty / name).write_bytes((run / name).read_bytes())
    arguments = arguments.replace("RUN", str(run)).replace("EMPTY", str(empty))
    assert main(arguments.split()) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not list(tmp_path.glob("picture*"))  # not even a picture beside a film that cannot be


def test_the_papers_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """7b and 7c, of never frozen runs with the paper's batches."""
    monkeypatch.setattr(figures, "LAG", 50)
    settings = "--steps 100 --agent.learning-starts 96 --eval.every 100 --eval.episodes 1 --no-compile --analysis.every 50"
    picture = str(tmp_path / "figure.png")
    assert main(f"train atari/qbert {settings} --run-dir {tmp_path}/runs/qbert".split()) == 0
    assert main(["paper", "figure7c", "--runs", str(tmp_path / "runs"), "-o", picture]) == 2
    assert "figure7c needs runs with snapshots: seer paper plan figure7c says which" in capsys.readouterr().err
    monkeypatch.setattr(inspect, "OBSERVATIONS", 40)
    walker = f"train dmc/walker-walk {settings} --agent.learning-starts 127 --env.fast-render --steps 130"
    assert main(f"{walker} --run-dir {tmp_path}/runs/walker".split()) == 0
    for name in ("figure7b", "figure7c"):
        assert main(["paper", name, "--runs", str(tmp_path / "runs"), "-o", picture]) == 0
        assert Path(picture).stat().st_size > 10_000
    assert main(["paper", "plan", "figure7c", "--no-estimate"]) == 0
    assert "--analysis.every 10000" in capsys.readouterr().out


def flat(shape: tuple[int, ...]) -> nn.Module:
    """An encoder from elsewhere without convolutions."""
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 8))


def test_an_encoder_without_convolutions_has_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(outside.TRUSTED, f"{__name__}:flat")
    agent = DQN(DQNConfig(encoder=f"{__name__}:flat", hidden=8), (1, 8, 8), 2)
    with pytest.raises(ValueError, match="no convolutions, whose maps would show"):
        inspect.of_map(agent, np.zeros((1, 1, 8, 8), np.uint8), None)


def test_a_signal_may_be_infinite(tmp_path: Path) -> None:
    """Novelty is, where all that was met before was the same."""
    rows = [f"2500,seer/{name},{'inf' if name == 'novelty' else 0.5}" for name in inspect.PANELS]
    (tmp_path / METRICS).write_text("\n".join(["step,name,value", *rows, ""]))
    (tmp_path / CLOCK).write_text("step,name,value\n")
    assert [signals.novelty for signals in inspect.recorded(tmp_path)] == [np.inf]


@pytest.mark.parametrize(
    ("channels", "frames", "shown"),
    [(4, 4, [3, 3, 3]), (3, 3, [2, 2, 2]), (9, 3, [6, 7, 8]), (12, 3, [8, 9, 10]), (3, 1, [0, 1, 2])],
)
def test_the_newest_frame_is_shown_in_its_colours(channels: int, frames: int, shown: list[int]) -> None:
    """Of Atari, gray pictures, colours, colours and opacity, and a single picture."""
    agent = SimpleNamespace(obs_shape=(channels, 4, 4))
    obs = np.broadcast_to(np.arange(channels, dtype=np.uint8)[:, None, None], (channels, 6, 6)).copy()
    assert (inspect.as_seen(agent, obs, frames) == shown).all()  # type: ignore[arg-type]
