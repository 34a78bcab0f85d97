"""The schedule and its steps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from personalive.config import CHUNK, LEAD_IN, SLOTS, STEP_CHOICES, WINDOW
from personalive.engine import schedule as sampler
from personalive.errors import InputError

CPU = torch.device("cpu")


def test_four_steps_are_the_published_ones():
    assert sampler.timesteps(4) == [999, 666, 333, 0]
    (step,) = sampler.inner_steps(4)
    assert step.timesteps == (0,) * 4 + (333,) * 4 + (666,) * 4 + (999,) * 4
    assert step.next_timesteps == (None,) * 4 + (0,) * 4 + (333,) * 4 + (666,) * 4


@pytest.mark.parametrize("steps", STEP_CHOICES)
def test_a_frame_passes_every_timestep_once_in_order(steps):
    inner = sampler.inner_steps(steps)
    # A frame enters in the newest slot and moves one slot on at each call.
    passed = [step.timesteps[slot * CHUNK] for slot in reversed(range(SLOTS)) for step in inner]
    reached = [step.next_timesteps[slot * CHUNK] for slot in reversed(range(SLOTS)) for step in inner]
    assert passed == sampler.timesteps(steps)
    assert reached == [*passed[1:], None]
    assert len(inner) * SLOTS == steps
    assert sampler.lead_in_timesteps(steps) == inner[0].timesteps[:LEAD_IN]


@pytest.mark.parametrize("steps", [0, 1, 3, 5, 20, -4])
def test_other_numbers_of_steps_are_refused_with_the_choices(steps):
    with pytest.raises(InputError, match="4, 8, 12, 16"):
        sampler.inner_steps(steps)


@given(st.sampled_from(STEP_CHOICES), st.sampled_from(["epsilon", "v_prediction", "sample"]), st.integers(0, 2**31))
def test_a_perfect_prediction_leads_back_to_the_clean_latents(steps, kind, seed):
    generator = torch.Generator().manual_seed(seed)
    clean, noise = (torch.randn(WINDOW, 2, 3, 3, generator=generator) for _ in range(2))
    step = sampler.inner_steps(steps)[-1]
    noisy = sampler.add_noise(clean, noise, step.timesteps)
    coefficients = sampler.StepCoefficients.of(step, CPU)
    a, s = coefficients.sqrt_alpha, coefficients.sqrt_one_minus_alpha
    output = {"epsilon": noise, "v_prediction": a * noise - s * clean, "sample": clean}[kind]
    after, predicted = sampler.denoise_step(noisy, output, coefficients, kind)
    scale = 1 / a.min() if kind == "epsilon" else 1  # rounding of the noise is magnified at the noisiest timestep
    torch.testing.assert_close(predicted, clean, atol=2e-6 * float(scale) + 1e-4, rtol=0)
    torch.testing.assert_close(after[:CHUNK], predicted[:CHUNK], atol=0, rtol=0)  # the oldest frames are done


def test_noise_is_added_with_coefficients_in_the_dtype_of_the_latents():
    """In fp16 the noisiest level has no clean part of 1 − ᾱ left (the published table): √(1 − ᾱ) is exactly 1."""
    clean, noise = torch.zeros(2, 1, 1, 1, dtype=torch.half), torch.ones(2, 1, 1, 1, dtype=torch.half)
    levels = sampler.add_noise(clean, noise, (0, 999)).flatten().tolist()
    assert levels == [0.03125, 1.0]


def test_windows_of_several_streams_step_together():
    step = sampler.inner_steps(4)[0]
    coefficients = sampler.StepCoefficients.of(step, CPU)
    sample, output = torch.randn(2, 2 * WINDOW, 2, 3, 3)
    both = sampler.denoise_step(sample, output, coefficients, "epsilon")
    for index in range(2):
        part = slice(index * WINDOW, (index + 1) * WINDOW)
        alone = sampler.denoise_step(sample[part], output[part], coefficients, "epsilon")
        assert all(torch.equal(a[part], b) for a, b in zip(both, alone, strict=True))
