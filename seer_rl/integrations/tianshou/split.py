"""The library's networks, cut in two: convolutions that can be frozen, and all that goes on learning above them."""

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seer_rl.integrations import drops, fix
from seer_rl.replay.codec import Codec, layout

ALONE = "let it divide images by a number, give them to its nn.Sequential, and do nothing else with them"


class Split(nn.Sequential):
    """The layers of an `nn.Sequential`, of which the first `cut` lie below the seam. They keep the names that they had.

    The network around it is given images [B, C, H, W] or, from the freeze on, codes [B, n]. What it does to images on their way
    here must not be done to codes: `enter` takes them from its arguments, and `forward` uses them here.
    """

    cut: int
    given: Any  # what the network was given, until it has come here
    scale: float | None  # what the network divides images by on their way here; None: not known yet
    compared: set[bool]  # whether that was seen in evaluation mode (False), and in training mode (True)
    calls: dict[int, tuple[nn.Module, int, tuple[Any, ...], dict[str, Any]]]  # each network's latest: rows, what came with them
    exact: torch.Tensor | None  # in a rehearsal: the embeddings that take the place of all that arrives
    codec: Codec | None  # how embeddings are stored; None before the freeze
    place: slice  # which numbers of a code are its own, where those of several networks lie side by side

    @staticmethod
    def of(network: nn.Module) -> "Split":
        """Return the split of a network, and make it where there is none yet. Raises ValueError where that cannot be."""
        every = _convolutions(network)
        plain = [one for one in network.modules() if type(one).forward in (nn.Sequential.forward, Split.forward)]
        holding = [one for one in plain if _convolutions(one) == every]
        if not holding:
            raise ValueError(
                f"SEER cuts an nn.Sequential behind its convolutions, and those of {type(network).__name__} lie in none: "
                "put them into one"
            )
        found = holding[-1]  # the innermost
        if not isinstance(found, Split):
            layers = list(cast(nn.Sequential, found))
            cut = max(i for i, layer in enumerate(layers) if sees(layer)) + 1
            while cut < len(layers) and not list(layers[cut].parameters()) and not drops(layers[cut]):
                cut += 1  # activations, flattening
            if any(map(drops, layers[:cut])):
                raise ValueError("SEER stores once what convolutions make of an image: put dropout behind them")
            kinds = type(found).__mro__[: type(found).__mro__.index(nn.Sequential)]
            if own := sorted({name for kind in kinds for name in vars(kind) if not name.startswith("__")}):
                raise ValueError(
                    f"SEER gives an nn.Sequential another class, and {type(found).__name__} has a {own[0]} of its own: "
                    "put its layers into a plain nn.Sequential"
                )
            # The object stays and changes its class: other networks and the library's pairs of networks know it, too.
            found.__class__ = Split
            found.cut, found.given, found.scale, found.codec = cut, None, None, None  # type: ignore[assignment]
            found.compared, found.calls, found.exact = set(), {}, None  # type: ignore[assignment]
        split = cast(Split, found)
        if all(getattr(hook, "__self__", None) is not split for hook in network._forward_pre_hooks.values()):
            network.register_forward_pre_hook(split.enter, with_kwargs=True)
        return split

    @property
    def below(self) -> nn.Sequential:
        """Return the layers below the seam."""
        return nn.Sequential(*list(self)[: self.cut])

    @property
    def weights(self) -> list[torch.Tensor]:
        """Return the weights below the seam."""
        return list(self.below.state_dict().values())

    @property
    def device(self) -> torch.device:
        """Return where the layers below the seam are."""
        return self.weights[0].device

    def enter(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note what the network is given. In the place of codes, send one pixel of each observation through it."""
        self.given = args[0] if args and isinstance(args[0], np.ndarray | torch.Tensor) else None
        if self._coded(self.given):
            return (_pixels(len(self.given)), *args[1:]), kwargs
        if self.given is not None and self.codec is None and self.exact is None:
            self.calls[id(network)] = network, len(self.given), args[1:], kwargs
        return None

    def _coded(self, given: Any) -> bool:
        """Tell codes from images."""
        return self.codec is not None and given is not None and given.ndim == 2

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map images [B, C, H, W] as they have come through the network, or codes that it was given, to features [B, ...]."""
        given, self.given = self.given, None
        if self.exact is not None:
            z = self.exact
        elif self._coded(given):
            codec = cast(Codec, self.codec)
            stored = torch.as_tensor(given, device=self.device)[:, self.place]
            z = codec.decode(stored.reshape(-1, *layout(codec.dtype, codec.shape)[1]))
        else:
            if given is not None and self.codec is None and self.training not in self.compared:
                self._compare(torch.as_tensor(given).to(input), input.detach())
            z = self.below(input.to(self.device))  # a library that asks for parameters to find a device may find none below
        for layer in list(self)[self.cut :]:
            z = layer(z)
        return z

    def _compare(self, images: torch.Tensor, arrived: torch.Tensor) -> None:
        """Find what images [B, C, H, W] were divided by before they arrived. Raises ValueError where more was done to them."""
        if not images.any():
            return  # black images tell nothing
        scale = self.scale or float(images.max() / arrived.max())
        if images.shape != arrived.shape or not torch.allclose(arrived * scale, images, atol=1e-3):
            raise ValueError(
                "between an observation and its first convolution a network may divide by a number and do nothing else: "
                "leave the rest to the environment, or to a layer of the nn.Sequential"
            )
        self.scale = float(round(scale)) if abs(round(scale) - scale) < 1e-3 else scale
        self.compared.add(self.training)

    @torch.no_grad()
    def embed(self, images: NDArray[Any]) -> torch.Tensor:
        """Map images [B, C, H, W], as observations are, to embeddings [B, ...] float32."""
        z: torch.Tensor = self.below.eval()(torch.as_tensor(images, device=self.device).float() / (self.scale or 1.0))
        return z

    @torch.no_grad()
    def rehearse(self, image: NDArray[Any]) -> None:
        """Repeat every network's latest call on one observation [1, C, H, W], as it will be made once embeddings are stored.

        Raises ValueError where a network cannot do without the image, or gives something else.
        """
        for network, rows, args, kwargs in self.calls.values():
            network.eval()
            images, results = np.repeat(image, rows, 0), []
            try:
                with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                    for given in (images, _pixels(rows)):
                        torch.manual_seed(0)  # a network may draw numbers, such as the fractions of IQN
                        self.exact = self.embed(images) if given is not images else None
                        results.append(network(given, *args, **kwargs))
                pairs = zip(*map(_tensors, results), strict=True)
                same = all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)
            except Exception as error:  # whatever a user's network raises
                why = str(error).partition("\n")[0]  # PyTorch's own may have several lines
                raise ValueError(f"{type(network).__name__} cannot do without the image itself ({why}): {ALONE}") from error
            finally:
                self.exact = None
            if not same:
                raise ValueError(f"{type(network).__name__} gives something else without the image itself: {ALONE}")
        self.calls.clear()

    def fix(self) -> None:
        """Let the weights below the seam be buffers from now on, which no gradient, optimizer or Polyak average reaches."""
        fix(self.below)


def _pixels(rows: int) -> NDArray[np.uint8]:
    """Return what goes through a network in the place of images."""
    return np.zeros((rows, 1, 1, 1), np.uint8)


def _tensors(result: Any) -> list[torch.Tensor]:
    """List the tensors in what a network returned."""
    if isinstance(result, tuple | list):
        return [x for one in result for x in _tensors(one)]
    return [result] if isinstance(result, torch.Tensor) else []


def sees(network: nn.Module) -> bool:
    """Tell whether a network has convolutions of images."""
    return bool(_convolutions(network))


def _convolutions(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]
