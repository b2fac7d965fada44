"""Attention and similarity against hand-made cases, invariances, known biases and independent float64 calculations."""

import numpy as np
import pytest
import torch
from torch import nn

from seer_rl.agents.networks import encoder
from seer_rl.convergence import linear_cka
from seer_rl.experiments.activations import record, spatial_attention, svcca, units

G = torch.Generator().manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=G)


def rotation(size: int) -> torch.Tensor:
    q: torch.Tensor = torch.linalg.qr(normal(size, size)).Q
    return q


def test_attention_of_a_hand_made_activation() -> None:
    activations = torch.tensor([[[[1.0, -2.0], [0.0, 3.0]], [[-1.0, 0.0], [0.0, 1.0]]]])  # [1, 2, 2, 2]
    means = np.array([1.0, 1.0, 0.0, 2.0])  # of absolute values, over channels
    expected = np.exp(means) / np.exp(means).sum()
    assert spatial_attention(activations).flatten().tolist() == pytest.approx(expected.tolist())
    many = spatial_attention(normal(5, 8, 7, 9))
    assert many.shape == (5, 7, 9)
    assert many.sum(dim=(1, 2)).tolist() == pytest.approx([1] * 5)


def test_what_layers_give_is_recorded_after_their_relu() -> None:
    lower = encoder("canonical", (4, 84, 84))
    head = nn.Sequential(nn.Linear(3136, 6), nn.ReLU(), nn.Linear(6, 2))
    network = nn.ModuleDict({"encoder": lower, "head": head, "target_head": nn.Linear(2, 2)})
    images = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8, generator=G)
    found = record(network, lambda: head(lower(images)))
    assert list(found) == ["conv1", "conv2", "conv3", "head.0", "head.2"]
    with torch.no_grad():
        x = images / 255
        for i in (1, 2, 3):
            x = torch.relu(lower.get_submodule(f"conv{i}")(x))
            assert torch.allclose(found[f"conv{i}"], x, atol=1e-6)  # and not what an in-place ReLU or the next layer left
        hidden = torch.relu(head[0](x.flatten(1)))
        assert torch.allclose(found["head.0"], hidden, atol=1e-5)
        assert torch.allclose(found["head.2"], head[2](hidden), atol=1e-5)
    assert not any(module._forward_hooks for module in network.modules())


def test_positions_are_samples() -> None:
    activations = normal(3, 4, 2, 5)
    matrix = units(activations)
    assert matrix.shape == (3 * 2 * 5, 4)
    assert torch.equal(matrix[1 * 10 + 1 * 5 + 3], activations[1, :, 1, 3].double())
    assert units(normal(6, 7)).dtype == torch.float64


@pytest.mark.parametrize("measure", [linear_cka, svcca])
def test_invariances(measure: object) -> None:
    assert callable(measure)
    x = normal(300, 12) @ torch.diag(torch.linspace(1, 3, 12))
    y = torch.relu(x @ normal(12, 9)) + normal(300, 9)
    similarity = measure(x, y)
    assert 0.05 < similarity < 0.95
    assert measure(3 * x @ rotation(12) + 5, y) == pytest.approx(similarity, abs=1e-6)
    assert measure(y, x) == pytest.approx(similarity, abs=1e-9)
    assert measure(x, 0.01 * x @ rotation(12) - 7) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("samples", "units_x", "units_y"), [(40, 6, 6), (30, 50, 70), (30, 50, 6)])
def test_cka_is_the_textbooks(samples: int, units_x: int, units_y: int) -> None:
    """With n x n kernel matrices in NumPy: Song et al. (2012), eq. 5."""
    x, y = normal(samples, units_x), normal(samples, units_y)
    y[:, :3] += x[:, :3]

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        n = len(a)
        k, m = a @ a.T, b @ b.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        ones = np.ones(n)
        terms = np.trace(k @ m) + ones @ k @ ones * (ones @ m @ ones) / ((n - 1) * (n - 2)) - 2 / (n - 2) * ones @ k @ m @ ones
        return float(terms / (n * (n - 3)))

    a, b = x.double().numpy(), y.double().numpy()
    assert linear_cka(x, y) == pytest.approx(max(hsic(a, b) / np.sqrt(hsic(a, a) * hsic(b, b)), 0), abs=1e-9)
    x, y = normal(4000, 5), normal(4000, 5)  # and with many samples it is the plain one
    y[:, 0] += 2 * x[:, 0]
    a, b = (m.double().numpy() - m.double().numpy().mean(0) for m in (x, y))
    plain = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert linear_cka(x, y) == pytest.approx(plain, abs=2e-3)


def test_svcca_is_the_textbooks() -> None:
    """Canonical correlations as eigenvalues of whitened covariances, instead of from orthonormal bases."""
    x, y = normal(500, 8), normal(500, 6)
    y[:, :4] += x[:, :4]
    a, b = (m.double().numpy() - m.double().numpy().mean(0) for m in (x, y))

    def reduced(m: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(m.T @ m)
        values, vectors = values[::-1], vectors[:, ::-1]
        count = int(np.searchsorted(np.cumsum(values) / values.sum(), 0.9)) + 1
        kept: np.ndarray = m @ vectors[:, :count]
        return kept

    a, b = reduced(a), reduced(b)
    product = np.linalg.inv(a.T @ a) @ (a.T @ b) @ np.linalg.inv(b.T @ b) @ (b.T @ a)
    correlations = np.sqrt(np.clip(np.sort(np.linalg.eigvals(product).real)[::-1][: min(a.shape[1], b.shape[1])], 0, 1))
    assert svcca(x, y, variance=0.9) == pytest.approx(correlations.mean(), abs=1e-6)


def test_independent_noise_scores_its_known_bias() -> None:
    n, p = 400, 20
    pairs = [(normal(n, p), normal(n, p)) for _ in range(20)]
    assert np.mean([linear_cka(x, y) for x, y in pairs]) < 0.01  # the plain estimate: p / (n + p) = 0.048
    plain = [float((_c(x).T @ _c(y)).norm() ** 2 / ((_c(x).T @ _c(x)).norm() * (_c(y).T @ _c(y)).norm())) for x, y in pairs]
    assert np.mean(plain) == pytest.approx(p / (n + p), rel=0.05)
    # Squared canonical correlations of independent Gaussians average max(a, b) / (n - 1).
    squares = [float(torch.linalg.svdvals(_q(x).T @ _q(y)).square().mean()) for x, y in pairs]
    assert np.mean(squares) == pytest.approx(p / (n - 1), rel=0.05)
    # They fill a quarter circle of radius 2 sqrt(p / n), whose mean is 4 / (3 pi) of it.
    assert np.mean([svcca(x, y, 1.0) for x, y in pairs]) == pytest.approx(8 / (3 * np.pi) * np.sqrt(p / (n - 1)), rel=0.05)


def _c(x: torch.Tensor) -> torch.Tensor:
    return x.double() - x.double().mean(0)


def _q(x: torch.Tensor) -> torch.Tensor:
    q: torch.Tensor = torch.linalg.qr(_c(x)).Q
    return q


def test_dead_and_constant_units() -> None:
    x, y = normal(200, 10), normal(200, 8)
    y[:, :5] += x[:, :5]
    dead = torch.cat([x, torch.zeros(200, 4), torch.full((200, 2), 3.7)], dim=1)
    for measure in (linear_cka, svcca):
        assert measure(dead, y) == pytest.approx(measure(x, y), abs=1e-9)
        assert measure(torch.zeros(200, 10), y) == 0
        assert measure(torch.full((200, 3), 0.1), torch.full((200, 3), 0.3)) == 0
        assert measure(dead, dead) == pytest.approx(1)


def test_too_few_samples() -> None:
    with pytest.raises(ValueError, match="too few for"):
        svcca(normal(30, 20), normal(30, 20))
    with pytest.raises(ValueError, match="same samples"):
        linear_cka(normal(30, 2), normal(29, 2))
    with pytest.raises(ValueError, match="4 or more"):
        linear_cka(normal(3, 2), normal(3, 2))
