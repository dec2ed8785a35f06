"""The diffusion autoencoder: the schedule and the deterministic steps by hand, with denoisers that are known."""

import numpy as np
import pytest
import torch
from test_training import _one_thread  # noqa: F401
from torch import nn

from bias_tutorial.autoencoders import DiffusionAutoencoder
from bias_tutorial.autoencoders.diffusion import TIMES, Block, ddim, signal, waves


def model(steps=20, latent=2):
    return DiffusionAutoencoder((1, 8, 8), latent, width=8, steps=steps)


class Knows(nn.Module):
    """The velocity of a mix with one known image, in [-1, 1]."""

    def __init__(self, image):
        super().__init__()
        self.image = image

    def guess(self, mixed, share):
        return self.image

    def forward(self, mixed, times, latents):
        share = signal()[times].view(-1, 1, 1, 1)
        image = self.guess(mixed, share)
        noise = (mixed - share.sqrt() * image) / (1 - share).sqrt()
        return share.sqrt() * noise - (1 - share).sqrt() * image


class Gaussian(Knows):
    """The best guess where pixels are independent N(0, spread^2); the spread in place of an image."""

    def guess(self, mixed, share):
        return share.sqrt() * self.image**2 * mixed / (share * self.image**2 + 1 - share)


def test_the_schedule():
    shares = signal()
    assert shares.shape == (TIMES + 1,) and shares[0] == 1 and (shares.diff() < 0).all() and shares[-1] > 0
    beta = 1e-4 + np.arange(TIMES) * (0.02 - 1e-4) / (TIMES - 1)
    assert shares[1].item() == pytest.approx(1 - 1e-4) and shares[2].item() == pytest.approx((1 - 1e-4) * (1 - beta[1]))
    assert shares[-1].item() == pytest.approx(np.exp(np.log1p(-beta).sum()), rel=1e-5)
    assert shares[-1].item() == pytest.approx(4.04e-5, rel=0.01)  # of an image next to nothing is left


def test_a_step_with_the_true_noise_goes_to_the_same_mix_at_another_time():
    rng = np.random.default_rng(0)
    image, noise = (torch.from_numpy(rng.normal(size=(2, 1, 4, 4))) for _ in range(2))
    shares = signal().double()

    def mix(time):
        return shares[time].sqrt() * image + (1 - shares[time]).sqrt() * noise

    for before, after in ((1000, 950), (500, 0), (0, 300), (7, 7)):
        torch.testing.assert_close(ddim(mix(before), noise, shares[before], shares[after]), mix(after))


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_a_perfect_denoiser_gives_the_image_back_from_any_noise(steps):
    image, perfect = np.random.default_rng(0).random((1, 1, 8, 8), dtype=np.float32), model(steps)
    perfect.denoiser = Knows(torch.from_numpy(2 * image - 1))
    for seed in (0, 1):
        assert np.abs(perfect.decode(np.zeros((1, 2)), seed=seed) - image).max() < 2e-3
    noise = perfect.invert(image, np.zeros((1, 2)))
    assert np.abs(perfect.decode(np.zeros((1, 2)), noise) - image).max() < 2e-3


def test_inversion_finds_the_noise_and_comes_back():
    """Pixels N(0, .5^2) become N(0, 1) along the exact way, each scaled by 1 / .5; more steps, nearer to it."""
    images = (0.5 + 0.25 * np.random.default_rng(0).standard_normal((16, 1, 8, 8)).clip(-2, 2)).astype(np.float32)
    latents, exact, found = np.zeros((16, 2)), (2 * images - 1) / 0.5, []
    for steps in (20, 200):
        known = model(steps)
        known.denoiser = Gaussian(0.5)
        noise = known.invert(images, latents)
        assert np.abs(known.decode(latents, noise) - images).max() < 0.01  # .12 at 20 steps without the correction
        found.append([np.abs(noise - exact).max(), np.abs(known.decode(latents, exact) - images).max()])
    assert found[1][0] < 0.05 and found[1][1] < 0.01
    assert found[1][0] < found[0][0] / 3 and found[1][1] < found[0][1] / 3


def test_steps_are_closer_together_near_the_image_and_read_at_their_noisier_end():
    asked, known = [], model(4)
    known.denoiser = Knows(torch.tensor(0.5))
    known.denoiser.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[1].tolist()))
    known.decode(np.zeros((2, 2)))
    times = [1000, 562, 250, 62]  # 1000 (k / 4)^2; the last step ends at 0
    assert asked == [[time] * 2 for time in times]
    asked.clear()
    known.invert(np.full((1, 1, 8, 8), 0.75), np.zeros((1, 2)))
    assert asked == [[time] for time in reversed(times) for _ in range(3)]


def test_the_loss_is_the_error_of_the_velocity():
    """Before training nothing is predicted: E[share noise^2 + (1 - share) image^2] is left, here image^2 = 1/4."""
    torch.manual_seed(0)
    fresh, images = model(), torch.full((4000, 1, 8, 8), 0.75)
    mixed = fresh.denoiser(images, torch.ones(4000), torch.randn(4000, 2))
    assert mixed.shape == images.shape and torch.equal(mixed, torch.zeros_like(mixed))
    share = signal()[1:].mean().item()
    assert fresh.losses(images)["train_loss"].item() == pytest.approx(share + (1 - share) / 4, abs=0.02)
    fresh.denoiser = Knows(torch.tensor(0.5))
    assert fresh.losses(images)["train_loss"].item() == pytest.approx(0, abs=1e-5)


def test_the_noise_follows_from_the_velocity():
    known, image, noise = model(), torch.rand(1, 1, 8, 8), torch.randn(1, 1, 8, 8)
    known.denoiser = Knows(image)
    for time in (1, 400, TIMES):
        share = signal()[time]
        found = known.noise_in(share.sqrt() * image + (1 - share).sqrt() * noise, time, torch.zeros(1, 2))
        torch.testing.assert_close(found, noise, atol=2e-4, rtol=0)


def test_time_and_latents_reach_the_answer():
    torch.manual_seed(0)
    given = model()
    for value in given.denoiser.parameters():  # some begin at 0
        nn.init.normal_(value, std=0.1)
    mixed, latents = torch.randn(1, 1, 8, 8), torch.randn(1, 2)
    answers = [given.denoiser(mixed, torch.tensor([time]), told) for time, told in (
        (10, latents), (900, latents), (10, latents + 1))]
    assert not torch.allclose(answers[0], answers[1]) and not torch.allclose(answers[0], answers[2])


def test_a_block_scales_by_latents_what_time_scaled_and_shifted():
    torch.manual_seed(0)
    block = Block(8, 16, 4, 2)
    features, told, latents = torch.randn(3, 8, 4, 4), torch.randn(3, 4), torch.randn(3, 2)
    assert torch.equal(block(features, told, latents), block.around(features))  # at first
    seen = []
    block.second.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block(features, told, latents)
    plain = block.norm(block.first(features))
    scale, shift = (part[..., None, None] for part in block.by_time(told).split(16, dim=1))
    expected = (1 + block.by_latents(latents))[..., None, None] * ((1 + scale) * plain + shift)
    torch.testing.assert_close(seen[0], expected)


def test_times_as_waves():
    assert waves(torch.tensor([0, 1]), 4).tolist() == [
        [0, 0, 1, 1], pytest.approx([np.sin(1), np.sin(1e-4), np.cos(1), np.cos(1e-4)], rel=1e-5)]


@pytest.mark.parametrize(("steps", "least"), [(0, "a whole number of at least 1"),
                                              (1001, "at most 1000"), (2.5, "a whole")])
def test_bad_steps_are_refused(steps, least):
    with pytest.raises(ValueError, match=f"steps must be {least}.*got {steps}"):
        DiffusionAutoencoder(steps=steps)
