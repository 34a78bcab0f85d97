"""The noise schedule and its steps, as pure functions (docs/reference/streaming.md section 6).

A window has one frame group per slot, each at its own noise level: slot 0 is the cleanest and leaves, slot 3 is the
noisiest and has just entered. With n denoising steps in all, a slot takes n/4 of them in each step of the engine.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from personalive.config import CHUNK, SLOTS, STEP_CHOICES, PredictionType
from personalive.errors import check_choice

TRAIN_TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.02


@lru_cache(maxsize=1)
def alphas_cumprod() -> Tensor:
    """ᾱ of every training timestep, fp32 [1000] on the CPU. Do not write to it."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_TIMESTEPS, dtype=torch.float32, device="cpu") ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def check_steps(steps: int) -> None:
    """Refuse a number of steps that the slots cannot share.

    Raises:
        InputError: `steps` is not one of 4, 8, 12 and 16.
    """
    check_choice("steps", steps, STEP_CHOICES)


def timesteps(steps: int) -> list[int]:
    """The timesteps that a frame passes, noisiest first: 999, 666, 333, 0 for 4 steps."""
    check_steps(steps)
    return [round(999 * (1 - k / (steps - 1))) for k in range(steps)]


@dataclass(frozen=True)
class InnerStep:
    """One denoising step of all slots: each frame's timestep, and where it goes. The oldest frame comes first."""

    timesteps: tuple[int, ...]
    """Timestep of each of the 16 frames."""
    next_timesteps: tuple[int | None, ...]
    """Timestep that each frame reaches; None is the clean image."""


def inner_steps(steps: int) -> list[InnerStep]:
    """The denoising steps of one step of the engine: with n in all, n/4 of them."""
    path: list[int | None] = [*timesteps(steps), None]
    at_once = steps // SLOTS
    result = []
    for inner in range(at_once):
        # Slot s has (3 - s) steps of the engine behind it, so it starts one at place (3 - s)·n/4 of the path.
        places = [(SLOTS - 1 - slot) * at_once + inner for slot in range(SLOTS) for _ in range(CHUNK)]
        now = tuple(t for t in (path[place] for place in places) if t is not None)
        result.append(InnerStep(now, tuple(path[place + 1] for place in places)))
    return result


def lead_in_timesteps(steps: int) -> tuple[int, ...]:
    """Levels to which the first 12 frames are noised: those at which slots 0 to 2 start a step."""
    return inner_steps(steps)[0].timesteps[: (SLOTS - 1) * CHUNK]


@lru_cache(maxsize=64)
def _alphas(steps: tuple[int | None, ...], device: torch.device) -> Tensor:
    """ᾱ per frame as fp32 [n, 1, 1, 1]; it is 1 for None. Do not write to it."""
    with torch.inference_mode(False):  # training may use what a preview requested first
        table = alphas_cumprod()
        values = torch.stack([torch.ones(()) if t is None else table[t] for t in steps])
        return values.to(device)[:, None, None, None]


def add_noise(latents: Tensor, noise: Tensor, at: tuple[int, ...]) -> Tensor:
    """√ᾱ·latents + √(1−ᾱ)·noise in the latents' dtype (docs/reference/model.md section 12).

    Args:
        latents: clean latents [n, c, h, w], or [1, c, h, w] for all.
        noise: [n, c, h, w].
        at: timestep of each of the n frames.
    """
    alpha = _alphas(at, noise.device).to(latents.dtype)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


@dataclass(frozen=True)
class StepCoefficients:
    """Factors of one inner step, fp32 [16, 1, 1, 1] each."""

    sqrt_alpha: Tensor
    sqrt_one_minus_alpha: Tensor
    next_sqrt_alpha: Tensor
    next_sqrt_one_minus_alpha: Tensor

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, step: InnerStep, device: torch.device) -> "StepCoefficients":
        """The factors of `step`, on `device`. Do not write to them."""
        with torch.inference_mode(False):  # training may use what a preview requested first
            now, after = _alphas(step.timesteps, device), _alphas(step.next_timesteps, device)
            return cls(now.sqrt(), (1 - now).sqrt(), after.sqrt(), (1 - after).sqrt())


def denoise_step(
    sample: Tensor, output: Tensor, coefficients: StepCoefficients, prediction_type: PredictionType
) -> tuple[Tensor, Tensor]:
    """One deterministic step (η = 0), in fp32.

    Args:
        sample: noisy latents [b·16, c, h, w].
        output: the network's output, same shape.

    Returns:
        The latents at the next timestep and the predicted clean latents, fp32 [b·16, c, h, w] each.
    """
    windows = (-1, len(coefficients.sqrt_alpha))
    x, out = sample.float().unflatten(0, windows), output.float().unflatten(0, windows)
    a, s = coefficients.sqrt_alpha, coefficients.sqrt_one_minus_alpha
    if prediction_type == "epsilon":
        clean, noise = (x - s * out) / a, out
    elif prediction_type == "v_prediction":
        clean, noise = a * x - s * out, a * out + s * x
    else:
        clean, noise = out, (x - a * out) / s
    after = coefficients.next_sqrt_alpha * clean + coefficients.next_sqrt_one_minus_alpha * noise
    return after.flatten(0, 1), clean.flatten(0, 1)
