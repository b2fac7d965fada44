"""What a process is like in which networks learn. Nothing else in the library changes its process: commands call this first."""

import atexit
import contextlib
import ctypes
import logging
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import torch

from seer_rl.training.config import TrainConfig, check_numbers


def prepare(config: TrainConfig) -> None:
    """Make this process one that trains with these settings. To be called before PyTorch starts its threads.

    Adam's moments of weights that no longer get gradients (inputs that are always zero) decay into denormal numbers, with which
    processors are slow: they are flushed to zero. And glibc keeps freed memory for the next update, instead of giving it back
    and fetching fresh pages for every tensor. PyTorch's compiler keeps its results in the user's cache and
    works in one process. On a GPU, operations are those that give the same bits again.
    Raises ValueError, in a sentence, for a number that is not within its bounds.
    """
    check_numbers(config)
    torch.set_flush_denormal(True)
    torch.set_num_threads(config.threads)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, its maximum
            libc.mallopt(-1, 256 << 20)  # M_TRIM_THRESHOLD
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:  # PyTorch's own lies in /tmp, where others may write
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_directory())
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of processes that stay
    if config.device != "cpu" and torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
        torch.use_deterministic_algorithms(True, warn_only=True)  # an agent from elsewhere may use others
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", "TensorFloat32")  # advice to compute less exactly
    for noisy in ("torch._dynamo", "torch._inductor", "torch._functorch"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # the run tells of failures itself


def cache_directory() -> Path:
    """Return where compiled losses are kept: in the user's cache, or where there is none, until this process ends."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seer-rl"
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK | os.X_OK):
            return cache
    except (OSError, RuntimeError):  # a user whom the system does not know has no home
        pass
    temporary = tempfile.mkdtemp(prefix="seer-rl-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)
