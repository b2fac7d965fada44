"""Encoders and heads. Every module maps a batch; shapes are of one item unless [B, ...] is written."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, cast, overload

import torch
from torch import nn
from torch.nn import functional as F

from seer_rl import outside
from seer_rl.agents.base import Agent, Modular
from seer_rl.replay.observation import ONLY, Obs, Shape, Shapes, is_image, keyed, vectors_in

# Convolutions as (channels, kernel, stride). "data-efficient" is van Hasselt et al. (2019), "canonical" Mnih et al. (2015),
# "sac-ae" Yarats et al. (2019). "impala" (Espeholt et al., 2018) has stages of five convolutions: their channels.
CONVOLUTIONS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "data-efficient": ((32, 5, 5), (64, 5, 5)),
    "canonical": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
    "sac-ae": ((32, 3, 2), (32, 3, 1), (32, 3, 1), (32, 3, 1)),
}
IMPALA_STAGES = (16, 32, 32)
ENCODERS = (*CONVOLUTIONS, "impala")
SCALES = {"uint8 / 255": 0.0, "uint8 / 255 - 0.5": -0.5}  # what an encoder makes of pixels, as its file says, and the summand


class Pixels(nn.Module):
    """Map uint8 [B, C, H, W] to floats as `scale`, one of `SCALES`, says.

    The channels of a pixel lie side by side in the result: convolutions are faster so.
    """

    def __init__(self, scale: str = "uint8 / 255") -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        y = x.contiguous(memory_format=torch.channels_last).to(dtype).div_(255)
        summand = SCALES[self.scale]
        return y.add_(summand) if summand else y


def scale_of(agent: Modular) -> str:
    """Return the scale, one of `SCALES`, to which the encoder of `agent` brings pixels."""
    return next(module.scale for module in agent.modules() if isinstance(module, Pixels))


def set_scale(agent: Modular, scale: str) -> None:
    """Let every encoder in `agent` bring pixels to `scale`: the one that its weights were trained with.

    Raises ValueError if it is none of `SCALES`.
    """
    if not isinstance(scale, str) or scale not in SCALES:  # a file may say anything
        raise ValueError(f"there is no scale of pixels {scale!r}: it is one of {', '.join(SCALES)}")
    for module in agent.modules():
        if isinstance(module, Pixels):
            module.scale = scale


class AutocastSequential(nn.Sequential):
    """Modules in a row whose products are computed in `precision`; parameters and results are float32 all the same.

    The products of a single input are float32: converting the weights would take longer than multiplying with them.
    """

    precision = torch.float32

    def set_precision(self, precision: torch.dtype) -> None:
        """Compute products in `precision` from now on."""
        self.precision = precision

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.precision != torch.float32 and len(x) > 1 and len(self) > 0
        with torch.autocast(x.device.type, self.precision, enabled=mixed):
            y: torch.Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return y.float() if mixed else y


class Encoder(AutocastSequential):
    """A whole encoder that is cut in two at the seam; the parts, `lower` and `upper`, share its modules and their names.

    It takes images, uint8 [B, C, H, W]; or what `lower` made of them, which enters at the seam.
    """

    lower: AutocastSequential
    upper: AutocastSequential

    def cut(self, at: int) -> None:
        """Let the seam lie behind the first `at` modules."""
        modules = list(self._modules.items())
        for name, part in (("lower", modules[:at]), ("upper", modules[at:])):
            # Not a module of its own, or every weight would have two names.
            self.__dict__[name] = AutocastSequential(OrderedDict(part))
        self.set_precision(self.precision)

    def part(self, name: str) -> nn.Module:
        """Return the part of that name."""
        return cast(nn.Module, getattr(self, name))

    def set_precision(self, precision: torch.dtype) -> None:
        """Compute products in `precision` on both sides."""
        self.precision = self.lower.precision = self.upper.precision = precision

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.upper(self.lower(x) if x.dtype == torch.uint8 else x)
        return y


class PerImage(nn.Module):
    """Maps a dictionary of images to one of results under the same keys, each by a module of its own, or all by the same."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(dict.fromkeys(modules.values()))  # each once
        numbers = {id(module): i for i, module in enumerate(self.parts)}
        self.which = {key: numbers[id(module)] for key, module in modules.items()}

    def forward(self, obs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: self.parts[i](obs[key]) for key, i in self.which.items()}


class Encoders(PerImage):
    """The encoders of several images, all of them cut at the seam."""

    @property
    def lower(self) -> PerImage:
        """Return what lies below the seam: images to embeddings."""
        return self.part("lower")

    @property
    def upper(self) -> PerImage:
        """Return what lies above it."""
        return self.part("upper")

    def part(self, name: str) -> PerImage:
        """Return the parts of that name of all encoders."""
        return PerImage({key: getattr(self.parts[i], name) for key, i in self.which.items()})


def encoders(encoder: nn.Module, obs_shape: Shapes) -> list[tuple[Encoder, Shape]]:
    """List the encoders in what the function `encoder` made, each with the shape of its images."""
    if isinstance(encoder, Encoder) and not isinstance(obs_shape, Mapping):
        return [(encoder, obs_shape)]
    assert isinstance(encoder, Encoders)
    assert isinstance(obs_shape, Mapping)
    shapes = {i: obs_shape[key] for key, i in encoder.which.items()}
    return [(cast(Encoder, module), shapes[i]) for i, module in enumerate(encoder.parts)]


def joined(z: Obs, obs: Obs, vectors: Sequence[str]) -> torch.Tensor:
    """Put the features of several images, and the vectors of the observations, one behind the other: [B, F]."""
    if not isinstance(z, dict) or not isinstance(obs, dict):
        return cast(torch.Tensor, z)
    return torch.cat([*(x for key, x in z.items() if key not in vectors), *(obs[key] for key in vectors)], dim=-1)


def halves(z: Obs, obs: Obs, vectors: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the actor's and the critic's halves of embeddings [B, 2 L]; those of several images, and vectors, are joined."""
    images = {key: x.chunk(2, dim=-1) for key, x in keyed(z).items() if key not in vectors}
    actor, critic = ({key: both[i] for key, both in images.items()} for i in (0, 1))
    if not isinstance(z, dict):
        return actor[ONLY], critic[ONLY]
    return joined(actor, obs, vectors), joined(critic, obs, vectors)


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), [B, C, H, W] to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv2(F.relu(self.conv1(F.relu(x))))
        return x + y


class ExternalEncoder(nn.Module):
    """A module from elsewhere, which learnt with its statistics as they are: it stays in evaluation mode."""

    def __init__(self, name: str, obs_shape: tuple[int, ...]) -> None:
        """name: "module:factory"; the factory is called with (C, H, W) and returns the module, for float images in [0, 1]
        (in an agent whose scale is another of `SCALES`, in that range).

        Raises ValueError where there is none, or the user has not named it (`seer_rl.outside`).
        """
        super().__init__()
        factory = outside.load(name, "encoder")
        try:
            self.module = factory(obs_shape)
            if not isinstance(self.module, nn.Module):
                raise TypeError(f"it is {type(self.module).__name__}, not a torch.nn.Module")
            self.eval()
            output_shape(self.module, obs_shape, torch.float32)
        except Exception as error:  # anything: it is code of others
            raise ValueError(
                f"{name} gave no encoder for images of {'x'.join(map(str, obs_shape))}: {outside.told(error)}"
            ) from error

    def train(self, mode: bool = True) -> "ExternalEncoder":
        return super().train(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.module(x)
        return y


def _blocks(name: str, obs_shape: tuple[int, ...]) -> list[OrderedDict[str, nn.Module]]:
    """Make the encoder's modules, in groups between which it can be cut."""
    channels = obs_shape[0]
    blocks: list[OrderedDict[str, nn.Module]] = []
    if outside.is_outside(name):
        return [OrderedDict(given=ExternalEncoder(name, obs_shape))]
    if name not in ENCODERS:
        raise ValueError(f"there is no encoder {name!r}: choose {', '.join(ENCODERS)}, or give module:factory")
    if name == "impala":
        for i, out in enumerate(IMPALA_STAGES, start=1):
            block: OrderedDict[str, nn.Module] = OrderedDict()
            block[f"conv{i}"] = nn.Conv2d(channels, out, 3, padding=1)
            block[f"pool{i}"] = nn.MaxPool2d(3, stride=2, padding=1)
            block[f"residual{i}a"], block[f"residual{i}b"] = Residual(out), Residual(out)
            blocks.append(block)
            channels = out
        blocks[-1]["relu"] = nn.ReLU(inplace=True)
        return blocks
    for i, (out, kernel, stride) in enumerate(CONVOLUTIONS[name], start=1):
        blocks.append(
            OrderedDict([(f"conv{i}", nn.Conv2d(channels, out, kernel, stride)), (f"relu{i}", nn.ReLU(inplace=True))])
        )
        channels = out
    return blocks


@overload
def encoder(
    name: str, obs_shape: Shape, layers: int | None = None, scale: str = "uint8 / 255", shared: bool = False
) -> Encoder: ...


@overload
def encoder(
    name: str, obs_shape: Shapes, layers: int | None = None, scale: str = "uint8 / 255", shared: bool = False
) -> Encoder | Encoders: ...


def encoder(
    name: str, obs_shape: Shapes, layers: int | None = None, scale: str = "uint8 / 255", shared: bool = False
) -> Encoder | Encoders:
    """Make a convolutional encoder of uint8 images [B, C, H, W], cut after layer `layers` (default: the last) and its ReLU.

    name: one of `ENCODERS`, or "module:factory" (see `ExternalEncoder`), which is one layer. scale: one of `SCALES`. shared:
    where `obs_shape` names several images, whether they have one encoder; otherwise each has its own.
    Layers are convolutions, in "impala" stages of five. The lower part of a whole encoder ends with the flattened activation;
    cut earlier, it gives [B, channels, h, w] and the upper part holds the rest. Raises ValueError where the image is too small,
    no such layer exists, or images that shall share an encoder have different shapes.
    """
    if isinstance(obs_shape, Mapping):
        images = {key: shape for key, shape in obs_shape.items() if is_image(shape)}
        if shared and len(set(images.values())) > 1:
            raise ValueError(f"--agent.shared-encoder needs images of one shape, not {sorted(set(images.values()))}")
        one = _encoder(name, next(iter(images.values())), layers, scale) if shared else None
        return Encoders({key: one or _encoder(name, shape, layers, scale) for key, shape in images.items()})
    return _encoder(name, obs_shape, layers, scale)


def _encoder(name: str, obs_shape: Shape, layers: int | None, scale: str) -> Encoder:
    """Make one encoder."""
    blocks = _blocks(name, obs_shape)
    cut = len(blocks) if layers is None else layers
    if not 1 <= cut <= len(blocks):
        kind = "stages" if name == "impala" else "convolutional layers"
        raise ValueError(f"the {name} encoder has {kind} 1 to {len(blocks)}: there is no {layers}")
    modules: OrderedDict[str, nn.Module] = OrderedDict(pixels=Pixels(scale))
    for block in blocks:
        modules.update(block)
    modules["flatten"] = nn.Flatten()
    made = Encoder(modules)
    made.cut(len(modules) if cut == len(blocks) else 1 + sum(map(len, blocks[:cut])))
    try:
        output_shape(made, obs_shape, torch.uint8)
    except RuntimeError as error:
        raise ValueError(f"images of {obs_shape[1]}x{obs_shape[2]} are too small for the {name} encoder") from error
    return made


def blank(shapes: Shapes, count: int, dtype: torch.dtype, device: torch.device | None = None) -> Any:
    """Return `count` observations of zeros: images, or embeddings, of `dtype`, and vectors of float32."""
    if isinstance(shapes, Mapping):
        dtypes = {key: dtype if is_image(shape) else torch.float32 for key, shape in shapes.items()}
        return {key: torch.zeros(count, *shape, dtype=dtypes[key], device=device) for key, shape in shapes.items()}
    return torch.zeros(count, *shapes, dtype=dtype, device=device)


def output_shape(module: nn.Module, input_shape: Shapes, dtype: torch.dtype) -> Any:
    """Return the shape of what `module` gives for one input; of a dictionary, the shapes by key."""
    with torch.no_grad():
        device = next(module.parameters(), torch.empty(0)).device
        result = module(blank(input_shape, 1, dtype, device))
    return {key: tuple(x.shape[1:]) for key, x in result.items()} if isinstance(result, dict) else tuple(result.shape[1:])


def features_of(encoder: nn.Module, obs_shape: Shapes) -> int:
    """Count the numbers that the heads get of an observation: features of all its images, and its vectors."""
    of_images = output_shape(encoder, obs_shape, torch.uint8)
    if not isinstance(obs_shape, Mapping):
        return int(of_images[0])
    images: int = sum(shape[0] for shape in of_images.values())
    return images + sum(obs_shape[key][0] for key in vectors_in(obs_shape))


class NoisyLinear(nn.Module):
    """y = (mu_w + sigma_w * eps_w) x + mu_b + sigma_b * eps_b, with factorised noise (Fortunato et al., 2018, eq. 9-11).

    eps_w = f(e_out) f(e_in)^T and eps_b = f(e_out), f(x) = sign(x) sqrt|x|, e standard normal. The noise stays the same until
    `draw_noise`; in evaluation mode there is none. Weights and biases begin with sigma = std / sqrt(inputs), as that paper has
    it; common code of Rainbow, the SEER authors' included, takes sqrt(outputs) for the biases.
    """

    noise_in: torch.Tensor
    noise_out: torch.Tensor

    def __init__(self, in_features: int, out_features: int, std: float) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features)  # section 3.2: mu ~ U[-1/sqrt(p), 1/sqrt(p)], sigma = std / sqrt(p)
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.weight_std = nn.Parameter(torch.full((out_features, in_features), std * bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))
        self.bias_std = nn.Parameter(torch.full((out_features,), std * bound))
        self.register_buffer("noise_in", torch.zeros(in_features), persistent=False)
        self.register_buffer("noise_out", torch.zeros(out_features), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return F.linear(x, self.weight, self.bias)
        weight = torch.addcmul(self.weight, self.weight_std, torch.outer(self.noise_out, self.noise_in))
        return F.linear(x, weight, torch.addcmul(self.bias, self.bias_std, self.noise_out))


def draw_noise(layers: Sequence[NoisyLinear], generator: torch.Generator) -> None:
    """Give every layer new noise, all from one draw on the generator's device (a CPU generator: the same on any device)."""
    sizes = [size for layer in layers for size in (layer.in_features, layer.out_features)]
    e = torch.randn(sum(sizes), generator=generator, device=generator.device)
    pieces = iter(torch.split((e.sign() * e.abs().sqrt_()).to(layers[0].weight.device), sizes))
    for layer in layers:
        layer.noise_in, layer.noise_out = next(pieces), next(pieces)


class DuelingC51(nn.Module):
    """Logits [B, actions, atoms] of the return's distribution: value stream plus centred advantage stream.

    Dueling (Wang et al., 2016, eq. 9) applied per atom, as in Rainbow (Hessel et al., 2018); noisy linear layers throughout.
    The logits are float32 products in any case: actions often differ by less than the 8 bits of bfloat16 can tell.
    """

    def __init__(self, inputs: int, actions: int, atoms: int, hidden: int, std: float) -> None:
        super().__init__()
        self.actions, self.atoms = actions, atoms

        def stream(outputs: int) -> nn.Sequential:
            fc1, fc2 = NoisyLinear(inputs, hidden, std), NoisyLinear(hidden, outputs, std)
            return nn.Sequential(OrderedDict(hidden=AutocastSequential(OrderedDict(fc1=fc1, relu=nn.ReLU())), fc2=fc2))

        self.value = stream(atoms)
        self.advantage = stream(actions * atoms)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        value = self.value(z).view(-1, 1, self.atoms)
        advantage = self.advantage(z).view(-1, self.actions, self.atoms)
        logits: torch.Tensor = value + advantage - advantage.mean(dim=1, keepdim=True)
        return logits


class ActorCriticEmbedding(nn.Module):
    """Features [B, F] to [B, 2 L]: the actor's embedding beside the critic's, each by a linear layer and LayerNorm of its own.

    The actor's sends no gradient into the features (Yarats et al., 2019). With `tanh` the embeddings lie in (-1, 1) (DrQ-v2).
    """

    def __init__(self, features: int, length: int, tanh: bool = False) -> None:
        super().__init__()

        def owner() -> nn.Sequential:
            layers = OrderedDict[str, nn.Module](fc1=nn.Linear(features, length), norm=nn.LayerNorm(length))
            return nn.Sequential(layers | OrderedDict(tanh=nn.Tanh()) if tanh else layers)

        self.actor, self.critic = owner(), owner()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.actor(features.detach()), self.critic(features)], dim=-1)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Make what actors and critics are above their embeddings: two hidden layers. Their first is the network's second.

    The results are float32 products in any case: actions often differ by less than the 8 bits of bfloat16 can tell.
    """
    fc2, fc3, fc4 = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, outputs)
    below = AutocastSequential(OrderedDict(fc2=fc2, relu2=nn.ReLU(), fc3=fc3, relu3=nn.ReLU()))
    return nn.Sequential(OrderedDict(hidden=below, fc4=fc4))


class TwinQ(nn.Module):
    """Two independent estimates of Q(z, action): z [B, L], action [B, A] -> [2, B]."""

    def __init__(self, length: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.q1, self.q2 = mlp(length + actions, hidden, 1), mlp(length + actions, hidden, 1)

    def forward(self, z: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        x = torch.cat([z, action], dim=-1)
        return torch.stack([self.q1(x), self.q2(x)]).squeeze(-1)


def initialize(module: nn.Module, delta: bool = True) -> None:
    """Draw orthogonal weights, and set biases to zero; weights of what was given from elsewhere stay as they are.

    Convolutions have a gain of sqrt(2) for their ReLU. delta: they are delta-orthogonal (Xiao et al., 2018): orthogonal in the
    kernel's centre, zero beside it. Otherwise the whole kernel, as a matrix [out, in * kernel * kernel], is orthogonal.
    """
    given = {layer for one in module.modules() if isinstance(one, ExternalEncoder) for layer in one.modules()}
    for layer in module.modules():
        if layer in given:
            continue
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            centre = layer.kernel_size[0] // 2
            nn.init.zeros_(layer.bias)
            if delta:
                nn.init.zeros_(layer.weight)
            drawn = layer.weight.data[:, :, centre, centre] if delta else layer.weight
            nn.init.orthogonal_(drawn, gain=nn.init.calculate_gain("relu"))


def heads_length(obs_shape: Shapes, embedding: int) -> int:
    """Count the numbers that actor and critic get: an embedding of each image, and the vectors."""
    if not isinstance(obs_shape, Mapping):
        return embedding
    return sum(embedding if is_image(shape) else shape[0] for shape in obs_shape.values())


def explored(agent: Agent, obs: Obs, explore: torch.Tensor) -> torch.Tensor:
    """Choose uniformly drawn actions where `explore` [N] bool says so, else the greedy ones at `obs` [N, ...]; [N] int64."""
    drawn = torch.randint(agent.actions, (int(explore.sum()),), generator=agent.generator)
    if len(drawn) == len(explore):
        return drawn
    chosen = agent.policy(obs).argmax(dim=1).cpu()
    chosen[explore] = drawn
    return chosen


@torch.no_grad()
def polyak_update(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Set target to (1 - tau) target + tau online, for every parameter (Polyak averaging)."""
    slow: list[torch.Tensor] = [*target.parameters()]
    if slow:  # PyTorch takes no empty list
        torch._foreach_lerp_(slow, [*online.parameters()], tau)


def gradient_step(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Take a step of `optimizer` down the scalar `loss`, which gives gradients to that optimizer's parameters alone."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=parameters)  # type: ignore[no-untyped-call]
    optimizer.step()


def clipped_step(optimizer: torch.optim.Adam, limit: float) -> torch.Tensor:
    """Take a step of a fused `optimizer` with all gradients scaled down to the norm `limit`; return their norm before.

    Adam divides each gradient as it reads it (PyTorch's `grad_scale`, meant for losses that were scaled up): a pass over all of
    them less than by `torch.nn.utils.clip_grad_norm_`, with its formula.
    """
    norm = nn.utils.get_total_norm([p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None])
    optimizer.grad_scale = ((norm + 1e-6) / limit).clamp_(min=1.0)  # type: ignore[attr-defined]
    optimizer.step()
    return norm
