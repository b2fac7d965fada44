"""What this machine can do at best, measured: the ceilings that the other benchmarks are compared with."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

CPU = torch.device("cpu")


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: torch.device = CPU, repeats: int = 7) -> float:
    """Median time of one call, after one that does not count."""
    work()
    finish(device)
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        finish(device)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second (multiplications and additions) of a square matrix product."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, device)


def bandwidth(device: torch.device = CPU, megabytes: int = 256) -> float:
    """Bytes per second of copying an array that no cache holds, read and written."""
    source = torch.ones(megabytes * 250_000, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device)


def rates(device: torch.device = CPU) -> dict[str, float]:
    """Operations per second of matrix products, by the type of their numbers."""
    return {str(dtype).removeprefix("torch."): matrix_rate(dtype, device) for dtype in (torch.float32, torch.bfloat16)}


def ceilings(rates: dict[str, float], bandwidth: float) -> str:
    """Say what the machine can do at best."""
    products = ", ".join(f"{name} products {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    return f"ceilings: {products}, copying {bandwidth / 1e9:.1f} GB/s"


def spread(times: list[float]) -> str:
    """Median (tenth to ninetieth percentile)."""
    tenths = statistics.quantiles(times, n=10)
    return f"{statistics.median(times):.2f} ({tenths[0]:.2f} to {tenths[-1]:.2f})"


def name(device: torch.device = CPU) -> str:
    """The processor and what is used of it, and the GPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    gpu = f"{torch.cuda.get_device_name()}; " if device.type == "cuda" else ""
    return f"{gpu}{model}, {os.cpu_count()} cores, of which {torch.get_num_threads()} used; PyTorch {torch.__version__}"
