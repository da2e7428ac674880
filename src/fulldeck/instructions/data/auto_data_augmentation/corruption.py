"""How right a model stays on corrupted images: noise, impulses, contrast and blur, as Hendrycks & Dietterich
2019 (arXiv:1903.12261) rate robustness. No operation of a policy is among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from fulldeck.candidate import Candidate

Levels = npt.NDArray[np.float64]
"""N x C x H x W, 0 to 1."""


def gaussian_noise(images: Levels, random: np.random.Generator, strength: float) -> Levels:
    return images + strength * random.standard_normal(images.shape)


def impulse_noise(images: Levels, random: np.random.Generator, strength: float) -> Levels:
    chosen = random.random(images.shape) < strength
    return np.where(chosen, random.integers(0, 2, images.shape).astype(float), images)


def contrast(images: Levels, random: np.random.Generator, strength: float) -> Levels:
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    faded: Levels = mean + (images - mean) * (1 - strength)
    return faded


def blur(images: Levels, random: np.random.Generator, strength: float) -> Levels:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(images, (0, 0, strength, strength)))


CORRUPTIONS: dict[str, tuple[Callable[..., Levels], tuple[float, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.1, 0.2, 0.3)),
    "impulse_noise": (impulse_noise, (0.05, 0.1, 0.2)),
    "contrast": (contrast, (0.4, 0.6, 0.8)),
    "blur": (blur, (0.5, 0.75, 1.0)),
}
"""Name to the function and its strengths; the blur's is in pixels."""


def corrupted_accuracy(candidate: Candidate) -> float:
    """The mean accuracy over all corruptions and strengths, on test (else validation) images."""
    examples = candidate.data.test or candidate.judged
    assert isinstance(examples.inputs, np.ndarray)
    random = np.random.default_rng(0)
    clean = examples.inputs / 255
    right = []
    for corrupt, strengths in CORRUPTIONS.values():
        for apply in (partial(corrupt, strength=strength) for strength in strengths):
            levels = np.rint(255 * np.clip(apply(clean, random), 0, 1)).astype(np.uint8)
            outputs = candidate.run(candidate.encoded(replace(examples, inputs=levels)))
            right.append(float((outputs.argmax(axis=1) == examples.targets).mean()))
    return float(np.mean(right))
