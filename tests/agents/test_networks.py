"""Layers against their formulas."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from seer_rl.agents.networks import DuelingC51, NoisyLinear, clipped_step, draw_noise, encoder, output_shape


def test_noisy_linear_is_its_equation() -> None:
    torch.manual_seed(0)
    layer = NoisyLinear(7, 5, std=0.5).double()
    draw_noise([layer], torch.Generator().manual_seed(1))
    e = torch.randn(12, generator=torch.Generator().manual_seed(1))
    f = [math.copysign(math.sqrt(abs(x)), x) for x in e.tolist()]
    x = torch.randn(3, 7, dtype=torch.float64)
    for b in range(3):
        for j in range(5):
            y = sum(
                (layer.weight[j, i].item() + layer.weight_std[j, i].item() * f[7 + j] * f[i]) * x[b, i].item() for i in range(7)
            )
            y += layer.bias[j].item() + layer.bias_std[j].item() * f[7 + j]
            assert layer(x)[b, j].item() == pytest.approx(y, rel=1e-6)
    layer.eval()
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_noise_is_drawn_anew_and_has_the_right_moments() -> None:
    layer = NoisyLinear(20_000, 20_000 // 100, std=0.1)
    generator = torch.Generator().manual_seed(0)
    draw_noise([layer], generator)
    first = layer.noise_in.clone()
    draw_noise([layer], generator)
    assert not torch.equal(first, layer.noise_in)
    # f(e)^2 = |e|, whose mean is sqrt(2 / pi); f(e) itself has mean 0.
    assert layer.noise_in.square().mean().item() == pytest.approx(math.sqrt(2 / math.pi), rel=0.02)
    assert layer.noise_in.mean().item() == pytest.approx(0, abs=0.02)


def test_dueling_streams_are_centred() -> None:
    torch.manual_seed(0)
    head = DuelingC51(6, actions=4, atoms=3, hidden=8, std=0.1).double().eval()
    z = torch.randn(2, 6, dtype=torch.float64)
    logits, value, advantage = head(z), head.value(z), head.advantage(z).view(2, 4, 3)
    for b, a, i in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(3)).tolist():
        expected = value[b, i] + advantage[b, a, i] - sum(advantage[b, k, i] for k in range(4)) / 4
        assert logits[b, a, i].item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize(("name", "features", "convolutions"), [("data-efficient", 576, 2), ("canonical", 3136, 3)])
def test_encoders_have_the_papers_sizes_wherever_they_are_cut(name: str, features: int, convolutions: int) -> None:
    image = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    for cut in range(1, convolutions + 1):
        torch.manual_seed(0)
        parts = encoder(name, (4, 84, 84), cut)
        z = parts.upper(parts.lower(image))
        assert z.shape == (2, features)
        assert (z >= 0).all()
        assert sum(isinstance(m, torch.nn.Conv2d) for m in parts.lower) == cut
        torch.manual_seed(0)
        whole = encoder(name, (4, 84, 84))
        assert len(whole.upper) == 0
        assert whole.state_dict().keys() == parts.state_dict().keys()  # the seam has no part in names
        assert torch.equal(parts(image), z)
        assert torch.equal(parts(parts.lower(image)), z)
        assert output_shape(whole, (4, 84, 84), torch.uint8) == (features,)
        assert torch.equal(whole(image), z)


def test_encoders_refuse_what_they_cannot_do() -> None:
    with pytest.raises(ValueError, match="layers 1 to 2"):
        encoder("data-efficient", (4, 84, 84), 3)
    with pytest.raises(ValueError, match="layers 1 to 2"):
        encoder("data-efficient", (4, 84, 84), 0)
    with pytest.raises(ValueError, match="too small"):
        encoder("canonical", (4, 20, 20))


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_a_clipped_step_is_adams_on_scaled_gradients(limit: float) -> None:
    """Against Adam (Kingma & Ba, 2015, algorithm 1), written out in float64, of gradients that were scaled down before."""
    rng = np.random.default_rng(0)
    weights = [
        torch.nn.Parameter(torch.from_numpy(rng.normal(size=shape).astype(np.float32))) for shape in ((7, 5), (9,), (3,))
    ]
    optimizer = torch.optim.Adam(weights, 1e-2, eps=1.5e-4, fused=True)
    expected = [w.detach().double() for w in weights]
    first, second = ([torch.zeros_like(w) for w in expected] for _ in range(2))
    for step in range(1, 4):
        gradients = [torch.from_numpy(rng.normal(size=w.shape)) for w in weights[:2]]  # the third gets none
        for w, gradient in zip(weights, gradients, strict=False):
            w.grad = gradient.float()
        norm = sum(float(gradient.square().sum()) for gradient in gradients) ** 0.5
        assert float(clipped_step(optimizer, limit)) == pytest.approx(norm)
        for x, m, v, gradient in zip(expected, first, second, gradients, strict=False):
            scaled = gradient * min(1.0, limit / norm)
            m += 0.1 * (scaled - m)
            v += 0.001 * (scaled.square() - v)
            x -= 1e-2 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1.5e-4)
    for w, e in zip(weights, expected, strict=True):
        assert torch.allclose(w.detach().double(), e, atol=2e-6)
