"""Mean and spread of the channels of uint8 images."""

from __future__ import annotations

from typing import Any

import numpy as np


def channel_statistics(images: Any) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of N x C x H x W uint8 images, on the scale 0..1.

    Taken from the histogram of levels, which needs no copy of the images as floats. The deviation of a
    constant channel is given as 1.
    """
    levels = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].ravel(), minlength=256)
        share = counts / counts.sum()
        mean = float(levels @ share)
        deviation = float(np.sqrt(np.square(levels - mean) @ share))
        means.append(round(mean, 6))
        deviations.append(round(deviation, 6) or 1.0)
    return means, deviations
