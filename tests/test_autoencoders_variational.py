"""The variational autoencoder: its loss by hand."""

import numpy as np
import pytest
import torch
from test_autoencoders import cohort, fit
from test_training import _one_thread  # noqa: F401

from bias_tutorial.autoencoders import VariationalAutoencoder
from bias_tutorial.autoencoders.variational import NOISE, divergence, drawn


def test_the_divergence_is_the_closed_form():
    mean = torch.tensor([[0.0, 0.0], [1.0, -2.0], [0.0, 0.5]])
    log_variance = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, -1.0]])
    by_hand = [0, (1 + 4) / 2, (np.e - 2 + 0.25 + np.exp(-1)) / 2]
    assert divergence(mean, log_variance).tolist() == pytest.approx(by_hand)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    theirs = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(divergence(mean, log_variance), theirs)


def test_a_draw_has_its_mean_and_variance_and_passes_gradients():
    torch.manual_seed(0)
    mean, log_variance = (torch.full((100_000, 1), value, requires_grad=True) for value in (2.0, np.log(9.0)))
    values = drawn(mean, log_variance)
    assert values.mean().item() == pytest.approx(2, abs=0.05) and values.std().item() == pytest.approx(3, abs=0.05)
    values.sum().backward()
    assert torch.equal(mean.grad, torch.ones_like(mean))
    torch.testing.assert_close(log_variance.grad, (values - mean).detach() / 2)  # d/dl of exp(l / 2) e


def test_the_loss_adds_up():
    images = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = {}
    for beta in (0.0, 1.0, 4.0):
        model = VariationalAutoencoder((1, 16, 16), 3, width=8, beta=beta)
        torch.manual_seed(1)
        found[beta] = {name: value.item() for name, value in model.losses(images).items()}
        mean, log_variance = model.encoder(images).chunk(2, dim=1)
        torch.manual_seed(1)
        back = model.decoder(mean + (log_variance / 2).exp() * torch.randn_like(mean))
        assert found[beta]["error"] == pytest.approx((back - images).square().mean().item(), rel=1e-5)
        assert found[beta]["divergence"] == pytest.approx(divergence(mean, log_variance).mean().item(), rel=1e-5)
    by_hand = found[0.0]["error"] / (2 * NOISE**2) + 4 * found[0.0]["divergence"] / 256
    assert found[4.0]["train_loss"] == pytest.approx(by_hand, rel=1e-5)
    assert found[0.0]["train_loss"] == pytest.approx(found[0.0]["error"] / (2 * NOISE**2), rel=1e-6)


def test_latents_are_the_means():
    model, images = VariationalAutoencoder((1, 8, 8), 2, width=8), np.random.default_rng(0).random((3, 1, 8, 8))
    with torch.no_grad():
        both = model.encoder(torch.from_numpy(images).float())
    np.testing.assert_allclose(model.encode(images), both[:, :2], atol=1e-6)


def test_more_beta_makes_latents_hold_less():
    held = [fit(VariationalAutoencoder((1, 16, 16), 4, width=8, beta=beta), cohort())["divergence"].iloc[-1]
            for beta in (0.0, 1.0, 50.0)]
    assert held[0] > held[1] > held[2]


@pytest.mark.parametrize("beta", [-1, float("nan"), float("inf")])
def test_a_bad_beta_is_refused(beta):
    with pytest.raises(ValueError, match="beta must be a finite number of at least 0, got"):
        VariationalAutoencoder(beta=beta)
