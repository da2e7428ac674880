import numpy as np

from fulldeck.sources.channel_statistics import channel_statistics


def test_equals_mean_and_std_of_the_scaled_images():
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 4, 5), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 2, 3)), atol=1e-5)


def test_a_constant_channel_does_not_divide_by_zero():
    assert channel_statistics(np.full((2, 1, 3, 3), 51, dtype=np.uint8)) == ([0.2], [1.0])
