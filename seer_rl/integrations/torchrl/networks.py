"""The encoder inside a network of TorchRL, and the encoders of a loss, which keeps its networks' weights apart from them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torchrl.objectives import LossModule

from seer_rl.integrations import checksum, drops, sums

Place = tuple[str, tuple[str, ...], int]
"""An encoder's weights: the name of the loss's parameters, the path inside them, and which of several copies; -1 where one."""


class Seam(nn.Module):
    """Hold the part of a network that can be frozen; take images, or embeddings in their place.

    Put it around the convolutions before the loss is made: `Seam(cnn, (4, 84, 84))`. It computes what they compute. An input
    is an image if its last dimensions are `shape`; any other is taken for what `Seer` stores: the outputs of one encoder, or
    of several side by side, as one row of numbers.
    """

    start: torch.Tensor  # where this network's own numbers begin in an embedding; a loss with several copies has one for each

    def __init__(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        """module: maps images [B, *shape] to float32 [B, ...]. shape: of an image as it is stored, such as (4, 84, 84).

        Images of uint8 are divided by 255 if the module takes floats only. Lazy layers are made here.
        Raises ValueError for a module without convolutions, with batch normalization, which would go on changing, or with
        dropout, whose chance would be stored.
        """
        super().__init__()
        if not any(isinstance(part, nn.modules.conv._ConvNd) for part in module.modules()):
            raise ValueError("SEER freezes the convolutions of an image encoder, and this module has none")
        if any(isinstance(part, nn.modules.batchnorm._NormBase) and part.track_running_stats for part in module.modules()):
            raise ValueError("SEER needs an encoder that stands still: its batch normalization would go on counting statistics")
        if drops(module):
            raise ValueError("SEER stores once what an encoder makes of an image: put dropout above the Seam")
        self.lower, self.shape, self.divide = module, tuple(shape), False
        self.register_buffer("start", torch.zeros((), dtype=torch.int64))
        image = torch.zeros(1, *shape, dtype=torch.uint8, device=next(module.parameters()).device)
        with torch.no_grad():
            try:
                out = module(image)
            except RuntimeError:  # convolutions take no integers
                self.divide, out = True, module(image / 255)
        self.out_shape, self.length = tuple(out.shape[1:]), out[0].numel()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [..., *shape], or embeddings [..., L], to the module's outputs."""
        if x.shape[-len(self.shape) :] == self.shape:
            out: torch.Tensor = self.lower(x / 255 if self.divide and x.dtype == torch.uint8 else x)
            return out
        if x.shape[-1] != self.length:  # several encoders' numbers; `start` may be one of many under vmap
            x = x.index_select(-1, self.start + torch.arange(self.length, device=x.device))
        return x.view(*x.shape[:-1], *self.out_shape)


class Lower:
    """Find, compare, run and freeze the encoders of a loss."""

    def __init__(self, loss: Any) -> None:
        """Find every `Seam`. Raises ValueError where there is none, or where the loss is compiled."""
        if not isinstance(loss, LossModule) or getattr(loss, "_compiled_call_impl", None) is not None:
            raise ValueError("SEER needs a LossModule of TorchRL that is not compiled: compile the update around it instead")
        self.loss, self.seams = loss, dict[tuple[str, tuple[str, ...]], Seam]()
        for name, _ in loss.named_children():
            network = getattr(loss, name.removesuffix("_params"), None)
            if name.endswith("_params") and not name.startswith("target_") and isinstance(network, nn.Module):
                for path, module in network.named_modules(remove_duplicate=False):
                    if isinstance(module, Seam):
                        self.seams[name, tuple(path.split("."))] = module
        if not self.seams:
            raise ValueError(
                "no network of the loss has a Seam: put Seam(cnn, shape) in the place of cnn before the loss is made"
            )
        shapes = {seam.shape for seam in self.seams.values()}
        if len(shapes) > 1:
            raise ValueError(f"all encoders of a loss must take the same images, and these take {sorted(shapes)}")
        self.shape = shapes.pop()

    def _stored(self, name: str, path: tuple[str, ...]) -> Any:
        """Return a seam's weights and buffers as the loss keeps them: a TensorDict of batch size [], or [N] of N copies."""
        return getattr(self.loss, name).get(path)

    def places(self) -> list[Place]:
        """List the weights of all encoders."""
        found = []
        for name, path in self.seams:
            copies = self._stored(name, path).batch_size
            found += [(name, path, i) for i in (range(copies[0]) if copies else (-1,))]
        return found

    def weights(self, place: Place) -> dict[str, torch.Tensor]:
        """Return an encoder's weights by the seam's own names."""
        name, path, i = place
        named = {".".join(key) if isinstance(key, tuple) else key: x for key, x in self._stored(name, path).items(True, True)}
        return {key: x.detach() if i < 0 else x.detach()[i] for key, x in named.items() if key != "start"}

    def distinct(self) -> list[Place]:
        """List the encoders whose weights differ: those that are the same in all are listed once."""
        found: list[Place] = []
        for place in self.places():
            if not any(self.same(place, other) for other in found):
                found.append(place)
        return found

    def same(self, place: Place, other: Place) -> bool:
        """Tell whether two encoders have the same weights."""
        return alike(self.weights(place), self.weights(other))

    def length(self, places: list[Place]) -> int:
        """Count the numbers of an embedding by these encoders."""
        return sum(self.seams[name, path].length for name, path, _ in places)

    def checksum(self, places: list[Place]) -> int:
        """Return a number that tells these encoders from others, by their weights in the order of names."""
        return checksum(self._all(places))

    def sums(self, places: list[Place]) -> list[float]:
        """Return the sum of each of their weights, which tells as much in most cases, and sooner."""
        return sums(self._all(places))

    def _all(self, places: list[Place]) -> Iterator[torch.Tensor]:
        return (x for place in places for _, x in sorted(self.weights(place).items()))

    @torch.no_grad()
    def embed(self, images: torch.Tensor, places: list[Place]) -> torch.Tensor:
        """Map images [B, *shape] to embeddings [B, L] float32: what these encoders make of them, side by side."""
        parts = []
        for place in places:
            seam, weights = self.seams[place[:2]], self.weights(place)
            training = seam.training
            seam.eval()
            parts.append(functional_call(seam, weights, (images.to(next(iter(weights.values())).device),)).flatten(1).float())
            seam.train(training)
        return torch.cat(parts, 1)

    def every(self, apply: Callable[[str, Any, torch.Tensor], None]) -> None:
        """Call `apply` with the parameters' name, the key inside them, and every weight and buffer below the seam."""
        for name, path in self.seams:
            for key, x in self._stored(name, path).items(True, True):
                apply(name, (*path, *(key if isinstance(key, tuple) else (key,))), x)

    @torch.no_grad()
    def tie(self, places: list[Place]) -> None:
        """Let every network know its part of an embedding by these encoders, and copy what is below the seam to the targets."""
        for name, path, i in self.places():
            which = next(k for k, place in enumerate(places) if self.same(place, (name, path, i)))
            start = self._stored(name, path).get("start")
            (start if i < 0 else start[i]).fill_(self.length(places[:which]))

        def copy(name: str, key: Any, x: torch.Tensor) -> None:
            target = self.loss._modules.get(f"target_{name}")
            if target is not None:
                target.get(key).data.copy_(x.data)

        self.every(copy)

    def fix(self) -> None:
        """Stop training below the seam. Optimizers pass over what has no gradient."""

        def stop(name: str, key: Any, x: torch.Tensor) -> None:
            x.requires_grad_(False)
            x.grad = None

        self.every(stop)


def alike(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    """Tell whether both have the same weights under the same names."""
    return weights.keys() == others.keys() and all(torch.equal(x, others[key].to(x.device)) for key, x in weights.items())
