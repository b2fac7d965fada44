"""Encoders and networks carried from one agent to another, whatever its seam; and what is refused."""

import os
import shutil
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from seer_rl import outside
from seer_rl.agents.base import Agent
from seer_rl.agents.curl import CURL, CURLConfig
from seer_rl.agents.dqn import DQN, DQNConfig
from seer_rl.agents.drqv2 import DrQv2, DrQv2Config
from seer_rl.agents.flops import layers
from seer_rl.agents.networks import set_scale
from seer_rl.agents.rainbow import Rainbow, RainbowConfig
from seer_rl.agents.sac import RAD, RADConfig, SACConfig
from seer_rl.commands.main import main
from seer_rl.envs.dmc import ControlConfig
from seer_rl.training import build, checkpoint, loop, transfer
from seer_rl.training.config import SeerConfig, TrainConfig, TransferConfig
from seer_rl.training.events import Event, Metrics
from seer_rl.training.logger import read
from seer_rl.training.run import Run, Stopped
from seer_rl.training.weights import renamed, tensors

ATARI, DMC = (4, 84, 84), (9, 100, 100)
MAKERS: dict[str, Callable[[int | None, int], Agent]] = {
    "rainbow": lambda seam, actions: Rainbow(RainbowConfig(hidden=16), ATARI, actions, seam),
    "dqn": lambda seam, actions: DQN(DQNConfig(hidden=16), ATARI, actions, seam),
    "curl": lambda seam, actions: CURL(CURLConfig(hidden=16), DMC, actions, seam),
    "curl, impala": lambda seam, actions: CURL(CURLConfig(hidden=16, encoder="impala"), DMC, actions, seam),
    "drqv2": lambda seam, actions: DrQv2(DrQv2Config(hidden=16), (9, 84, 84), actions, seam),
}


def embedding(agent: Agent, target: bool = False) -> torch.Tensor:
    """What an agent makes of some images, above its last convolution."""
    shape = (3, *agent.obs_shape)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        x: torch.Tensor = agent.encoder(images) if not target or isinstance(agent, DrQv2) else agent.target_encoder(images)
        if isinstance(agent, DrQv2):
            x = (agent.target_embedding if target else agent.embedding)(x)
        return x.flatten(1)


@pytest.mark.parametrize(("there", "here"), [(None, None), (None, 1), (2, None), (1, 2)])
@pytest.mark.parametrize("kind", MAKERS)
def test_donor_and_receiver_embed_alike(kind: str, there: int | None, here: int | None) -> None:
    donor, receiver = MAKERS[kind](there, 5), MAKERS[kind](here, 3)
    head = {name: tensor.clone() for name, tensor in tensors(receiver).items() if "encoder." not in name}
    assert not torch.equal(embedding(donor), embedding(receiver))
    transfer.receive_encoder(receiver, tensors(donor.encoder))
    assert torch.equal(embedding(donor), embedding(receiver))
    assert torch.equal(embedding(donor), embedding(receiver, target=True))
    for name, tensor in head.items():
        assert torch.equal(receiver.state_dict()[name], tensor), name


@pytest.mark.parametrize("kind", MAKERS)
def test_a_whole_network_is_carried_over_another_seam(kind: str) -> None:
    donor, receiver = MAKERS[kind](None, 4), MAKERS[kind](1, 4)
    transfer.receive_all(receiver, donor.state_dict())
    theirs, ours = tensors(donor), tensors(receiver)
    assert torch.equal(embedding(donor), embedding(receiver))
    for name in ours.keys() & theirs.keys():
        assert torch.equal(ours[name], theirs[name])
    assert len(ours) == len(theirs)


def test_files(tmp_path: Path) -> None:
    agent = MAKERS["curl"](None, 2)
    weights = tensors(agent.encoder)
    assert set(weights) == {
        *(f"conv{i}.{what}" for i in (1, 2, 3, 4) for what in ("weight", "bias")),
        *(f"embedding.{who}.{layer}.{what}" for who in ("actor", "critic") for layer in ("fc1", "norm")
          for what in ("weight", "bias")),
    }  # fmt: skip
    file = transfer.encoder_file(weights, {"encoder": "sac-ae", "images": [9, 84, 84]})
    (tmp_path / "e.safetensors").write_bytes(file)
    loaded, about = transfer.load_encoder(tmp_path / "e.safetensors")
    assert about == {"encoder": "sac-ae", "images": [9, 84, 84]}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
    other = RAD(RADConfig(hidden=8), DMC, 1)
    transfer.receive_encoder(other, loaded)
    assert torch.equal(embedding(other), embedding(agent))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lower.conv1.weight", "encoder.conv1.weight"),
        ("target_lower.conv2.bias", "target_encoder.conv2.bias"),
        ("upper.rest.conv2.weight", "encoder.conv2.weight"),  # Rainbow, cut
        ("target_upper.head.value.fc2.weight_std", "target_head.value.fc2.weight_std"),
        ("upper.hidden.conv3.weight", "encoder.conv3.weight"),  # DQN, cut
        ("upper.hidden.fc1.weight", "head.hidden.fc1.weight"),
        ("target_upper.fc2.bias", "target_head.fc2.bias"),
        ("lower.embedding.actor.norm.weight", "encoder.embedding.actor.norm.weight"),
        ("target_upper.embedding.critic.fc1.bias", "target_encoder.embedding.critic.fc1.bias"),  # SAC, cut
        ("upper.residual2a.conv1.weight", "encoder.residual2a.conv1.weight"),
        ("lower.given.module.lower.weight", "encoder.given.module.lower.weight"),
        ("convolutions.conv1.weight", "encoder.conv1.weight"),  # DrQ-v2
        ("rest.conv4.weight", "encoder.conv4.weight"),
        ("target_embedding.critic.fc1.weight", "target_encoder.embedding.critic.fc1.weight"),
        ("actor.hidden.fc2.weight", "actor.hidden.fc2.weight"),
        ("target_critic.q1.fc4.bias", "target_critic.q1.fc4.bias"),
    ],
)
def test_names_of_weights_from_before_are_those_of_today(old: str, new: str) -> None:
    assert list(renamed({old: torch.zeros(1)})) == [new]


def encoder_in(run_dir: Path) -> dict[str, torch.Tensor]:
    """The online encoder's weights in a run's file."""
    found = safetensors.torch.load_file(run_dir / checkpoint.AGENT)
    return {name.removeprefix("encoder."): tensor for name, tensor in found.items() if name.startswith("encoder.")}


def saved(agent: Agent, config: TrainConfig, run_dir: Path) -> Path:
    run_dir.mkdir()
    checkpoint.save_config(run_dir, config)
    checkpoint.save_agent(run_dir, agent, config)
    return run_dir


def test_encoders_that_see_pixels_on_another_scale_are_refused(tmp_path: Path) -> None:
    """DrQ-v2's divide by 255 and subtract 0.5; with the weights of others, features would differ by half of their size."""
    env = ControlConfig(size=84, fast_render=True)
    drq, sac = (TrainConfig("dmc/reacher-easy", environment=env, agent=kind(hidden=8)) for kind in (DrQv2Config, SACConfig))
    torch.manual_seed(0)
    agents = {config: build.make_agent(config, build.make_env(config, False), 0) for config in (drq, sac)}
    run = saved(agents[drq], drq, tmp_path / "drq")
    assert main(["export", str(run), str(tmp_path / "encoder.safetensors")]) == 0
    _, about = transfer.load_encoder(tmp_path / "encoder.safetensors")
    assert about["scale"] == "uint8 / 255 - 0.5"
    for source in (run, tmp_path / "encoder.safetensors"):
        with pytest.raises(ValueError, match=r"learnt from pixels as 'uint8 / 255 - 0\.5', sac makes 'uint8 / 255' of them"):
            build.receive(agents[sac], TransferConfig(source, "encoder"))
        build.receive(agents[drq], TransferConfig(source, "encoder"))


def test_what_version_0_1_0_trained_keeps_its_scale(tmp_path: Path) -> None:
    """Its files do not say what it made of pixels, which was x / 255 in every agent."""
    config = TrainConfig("dmc/reacher-easy", environment=ControlConfig(size=84, fast_render=True), agent=DrQv2Config(hidden=8))
    agent = build.make_agent(config, build.make_env(config, False), 0)
    obs = torch.randint(0, 256, (2, 9, 84, 84), dtype=torch.uint8)
    set_scale(agent, "uint8 / 255")
    old, run = agent.policy(obs), saved(agent, config, tmp_path / "run")
    state = checkpoint.agent_state(agent)
    weights = safetensors.torch.load_file(run / checkpoint.AGENT)
    (run / checkpoint.AGENT).write_bytes(safetensors.torch.save(weights, {checkpoint.HEADER: '{"agent": "drqv2"}'}))
    with pytest.warns(UserWarning, match="have no checksum"):
        read, env = build.trained(run, config)
    env.close()
    assert torch.equal(read.policy(obs), old)
    set_scale(read, "uint8 / 255 - 0.5")
    assert not torch.equal(read.policy(obs), old)
    del state["scale"]
    checkpoint.set_agent_state(read, numpy_of(state))
    assert torch.equal(read.policy(obs), old)
    with pytest.raises(ValueError, match="no scale of pixels"):
        set_scale(agent, ["uint8"])  # type: ignore[arg-type]  # a file may say anything


def numpy_of(tree: Any) -> Any:
    """The state as checkpoints hold it."""
    if isinstance(tree, dict):
        return {key: numpy_of(value) for key, value in tree.items()}
    return tree.numpy() if isinstance(tree, torch.Tensor) else tree


TINY = "--steps 200 --agent.hidden 16 --agent.learning-starts 100 --agent.batch-size 8 --no-compile"
TINY += " --eval.episodes 1 --eval.every 200"


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Rainbow on Q*bert, which has 6 actions, as Pong."""
    run_dir = tmp_path_factory.mktemp("donor") / "qbert"
    assert main(f"train atari/qbert {TINY} --run-dir {run_dir}".split()) == 0
    return run_dir


@pytest.mark.parametrize("only", ["all", "encoder"])
def test_a_run_with_anothers_encoder(only: str, donor: Path, tmp_path: Path) -> None:
    """No image is ever trained on: operations are those after a freeze, from the start; the encoder stays the donor's."""
    run_dir, steps = tmp_path / "run", 200 if only == "all" else 1_100
    arguments = f"train atari/pong {TINY} --steps {steps} --transfer {donor} --transfer.only {only} --run-dir {run_dir}"
    assert main(arguments.split()) == 0
    agent, env = build.trained(run_dir, checkpoint.load_config(run_dir))
    config = checkpoint.load_config(run_dir)
    costs = build.costs(agent, env, config)
    env.close()
    assert config.seer.freeze_step == 0
    metrics = read(run_dir)
    assert metrics["seer/freeze_step"] == [(0, 0.0)]
    updates = steps - 100 + 1
    expected = steps * costs.act(frozen=True)[0] + updates * costs.update(frozen=True)[0] + costs.freeze(1)[0]
    assert metrics["compute/flops"][-1] == (steps, expected)
    assert {value for _, value in metrics["replay/bytes_per_step"]} == {2_312}
    theirs = encoder_in(donor)
    ours = encoder_in(run_dir)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_layers_that_are_not_frozen_learn_on(donor: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert main(f"train atari/pong {TINY} --transfer {donor} --seer.layers 1 --run-dir {run_dir}".split()) == 0
    theirs = encoder_in(donor)
    ours = encoder_in(run_dir)
    assert torch.equal(ours["conv1.weight"], theirs["conv1.weight"])
    assert not torch.equal(ours["conv2.weight"], theirs["conv2.weight"])


def test_an_encoders_file_in_plain_pytorch(donor: Path, tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    assert main(f"export {donor} {path}".split()) == 0
    layers = OrderedDict(conv1=nn.Conv2d(4, 32, 5, 5), relu1=nn.ReLU(), conv2=nn.Conv2d(32, 64, 5, 5), relu2=nn.ReLU())
    encoder = nn.Sequential(layers)
    encoder.load_state_dict(safetensors.torch.load_file(path))
    agent, env = build.trained(donor, checkpoint.load_config(donor))
    env.close()
    images = torch.randint(0, 256, (3, *ATARI), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(encoder(images / 255).flatten(1), agent.lower(images), atol=1e-6)
    run_dir = tmp_path / "run"
    assert main(f"train atari/alien {TINY} --transfer {path} --transfer.only encoder --run-dir {run_dir}".split()) == 0


def test_a_run_is_resumed_without_its_donor(donor: Path, tmp_path: Path) -> None:
    shutil.copytree(donor, tmp_path / "donor")
    config = replace(
        checkpoint.load_config(donor),
        env="atari/pong", run_dir=tmp_path / "run", transfer=TransferConfig(tmp_path / "donor", "encoder"),
        seer=SeerConfig(freeze_step=0),
    )  # fmt: skip
    run = Run(config)

    def stop(run: Run, event: Event | Metrics) -> None:
        run.stopping = run.step >= 120

    with pytest.raises(Stopped):
        loop.train(run, stop)
    shutil.rmtree(tmp_path / "donor")
    resumed = loop.resume(tmp_path / "run", pytest.fail)
    loop.train(resumed)
    assert resumed.step == 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train atari/pong --transfer nowhere", "is no run"),
        ("train atari/pong --transfer.only encoder", "needs --transfer"),
        ("train atari/alien --transfer DONOR", "--transfer.only encoder"),
        ("train atari/pong --agent dqn --transfer DONOR", "is of rainbow, not dqn"),
        ("train atari/pong --agent dqn --transfer DONOR --transfer.only encoder", "another encoder"),
        ("train dmc/walker-walk --transfer DONOR --transfer.only encoder", "images of 4x84x84, here they are 9x84x84"),
        ("train atari/pong --transfer DONOR --seer.layers 3", "there is no 3"),
        ("train atari/pong --transfer README", "add --transfer.only encoder"),
        ("train atari/pong --transfer README --transfer.only encoder", "is no encoder"),
        ("export DONOR out.zip", "must end in .safetensors (the encoder) or .onnx"),
        ("export nowhere out.safetensors", "is no run"),
    ],
)
def test_bad_input(arguments: str, words: str, donor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                   capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README").write_text("not an encoder")
    assert main(arguments.replace("DONOR", str(donor)).split()) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"README"}


def test_refusals(tmp_path: Path) -> None:
    rainbow = MAKERS["rainbow"](None, 4)
    before = {name: tensor.clone() for name, tensor in tensors(rainbow).items()}
    with pytest.raises(ValueError, match="another encoder"):
        transfer.receive_encoder(rainbow, tensors(MAKERS["dqn"](None, 4).encoder))
    colour = Rainbow(RainbowConfig(hidden=16), (12, 84, 84), 4)
    with pytest.raises(ValueError, match=r"for other images: its conv1\.weight is"):
        transfer.receive_encoder(rainbow, tensors(colour.encoder))
    with pytest.raises(ValueError, match=r"--transfer\.only encoder"):
        transfer.receive_all(rainbow, MAKERS["rainbow"](None, 6).state_dict())
    assert all(torch.equal(rainbow.state_dict()[name], tensor) for name, tensor in before.items())
    (tmp_path / "code").write_bytes(b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR.")
    (tmp_path / "images").write_bytes(transfer.encoder_file({}, {"images": 5}))
    for path in (tmp_path / "code", tmp_path / "images", tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match="is no encoder"):
            transfer.load_encoder(path)


BACKBONE = """
import torch
from torch import nn

calls = []


class PerFrame(nn.Module):  # as a backbone for single pictures would be used
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 8, 8)
        self.norm = nn.BatchNorm2d(8)
        self.norm.running_mean.fill_(0.1)
        self.fc = nn.Linear(8, 5)
        self.channels = channels

    def forward(self, x):
        frames = x.unflatten(1, (-1, self.channels)).flatten(0, 1)
        z = self.norm(self.conv(frames)).amax(dim=(2, 3))
        return self.fc(z).view(len(x), -1)


def gray(shape):
    calls.append(shape)
    torch.manual_seed(3)
    return PerFrame(1)


def colour(shape):
    torch.manual_seed(3)
    return PerFrame(3)


def function(shape):
    return print


def wrong(shape):
    return nn.Linear(5, 5)
"""


@pytest.fixture
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module in the working directory, and nothing left of it afterwards."""
    (tmp_path / "backbone.py").write_text(BACKBONE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(outside.TRUSTED, "")  # so that what the command sets is undone
    yield
    sys.modules.pop("backbone", None)


def test_an_encoder_from_elsewhere(backbone: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Frozen as it is, statistics too; and never started by a run's files alone."""
    arguments = f"train atari/pong {TINY} --agent.encoder backbone:gray --seer.freeze-step 0 --run-dir run"
    assert main(arguments.split()) == 0
    backbone_module = sys.modules["backbone"]
    fresh = backbone_module.gray((4, 84, 84)).state_dict()
    trained = safetensors.torch.load_file(tmp_path / "run" / checkpoint.AGENT)
    for name, tensor in fresh.items():
        assert torch.equal(trained[f"encoder.given.module.{name}"], tensor), name
    assert {value for _, value in read(tmp_path / "run")["replay/bytes_per_step"]} == {4 * 20 + 8}
    os.environ[outside.TRUSTED] = ""
    sys.modules.pop("backbone")
    capsys.readouterr()
    for command in ("eval run", "play run --video film.mp4", "export run policy.onnx"):
        assert main(command.split()) == 2
    assert "backbone" not in sys.modules
    said = capsys.readouterr().err
    assert main(f"{arguments}2 --transfer run".split()) == 0  # which names it
    assert said.count(f"{outside.TRUSTED}=backbone:gray before the command") == 3
    sys.modules.pop("backbone")
    os.environ[outside.TRUSTED] = "backbone:gray"
    assert main(["eval", "run", "--episodes", "1"]) == 0
    assert main(["export", "run", "encoder.safetensors"]) == 0
    weights, _ = transfer.load_encoder(tmp_path / "encoder.safetensors")
    assert all(torch.equal(weights[f"given.module.{name}"], tensor) for name, tensor in fresh.items())


def test_an_encoder_from_elsewhere_below_actor_and_critic(backbone: None) -> None:
    """Their own initialisation leaves it alone, and --seer.layers 1 is all of it; each frame's operations count."""
    outside.trust("backbone:colour")
    agent = CURL(CURLConfig(hidden=8, encoder="backbone:colour"), DMC, 2, seam=1)
    fresh = sys.modules["backbone"].colour(DMC).state_dict()
    assert all(torch.equal(agent.lower.state_dict()[f"given.module.{name}"], tensor) for name, tensor in fresh.items())
    assert not any(module.training for module in agent.train().lower.get_submodule("given").modules())
    z = agent.lower(torch.zeros(2, 9, 84, 84, dtype=torch.uint8))
    assert z.shape == (2, 15)
    assert sum(layers(agent.lower, (9, 84, 84), torch.uint8).values()) == 3 * (8 * 3 * 8 * 8 * 10 * 10 + 8 * 5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("backbone:nothing", "no attribute 'nothing'"),
        ("nowhere:gray", "No module named 'nowhere'"),
        ("backbone:function", "not a torch.nn.Module"),
        ("backbone:wrong", "shapes cannot be multiplied"),
        ("canonicall", "choose data-efficient, canonical"),
        (":", "cannot be imported"),
    ],
)
def test_no_encoder_from_elsewhere(name: str, words: str, backbone: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"train atari/pong {TINY} --agent.encoder {name} --run-dir run".split()) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not Path("run").exists()
