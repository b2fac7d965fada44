"""SEER inside other libraries. Each plug-in needs its library alone, and of ours only the freeze and the replay."""

import re
import zlib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import nn

from seer_rl.text import install


def require(library: str, least: str, below: str, extra: str) -> None:
    """Make sure that a library is installed, in a version from `least` on, up to and not including `below`.

    library: its name in the package index. extra: of this package, which installs it.
    Raises ImportError, in a sentence that says what to install.
    """
    wanted = f"{library}>={least},<{below}"
    advice = f"install one that it was tested with: {install(extra)}"
    try:
        found = version(library)
    except PackageNotFoundError:
        raise ImportError(f"SEER needs {wanted}, which is not installed; {advice}") from None
    if not _numbers(least) <= _numbers(found) < _numbers(below):
        raise ImportError(f"SEER needs {wanted}, and {found} is installed; {advice}")


def checksum(weights: Iterable[torch.Tensor]) -> int:
    """Return the CRC-32 of the bytes of all these weights: it tells an encoder from the one whose embeddings were saved."""
    number = 0
    for one in weights:
        number = zlib.crc32(np.ascontiguousarray(one.numpy(force=True)).data, number)
    return number


def sums(weights: Iterable[torch.Tensor]) -> list[float]:
    """Return the sum of each of these weights: they change where others are loaded, and are quicker to ask for than `checksum`.

    The counters that PyTorch keeps of writes would cost nothing, but TorchRL loads weights past them.
    """
    return [float(one.detach().float().sum()) for one in weights]


def drops(module: nn.Module) -> bool:
    """Tell whether a module has dropout, whose chance would be stored."""
    return any(isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0 for part in module.modules())


def fix(module: nn.Module) -> None:
    """Let all weights of a module be buffers from now on, which no gradient, optimizer or Polyak average reaches."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            parameter.grad = None  # the optimizer, which still has it, passes over it
            delattr(part, name)
            part.register_buffer(name, parameter.detach())


def _numbers(release: str) -> list[int]:
    """Return a version's numbers, without what is said of a release before or after."""
    found = re.match(r"\d+(\.\d+)*", release)
    return [int(number) for number in found[0].split(".")] if found else []
