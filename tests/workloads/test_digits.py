import numpy as np
import pytest
import torch

from fulldeck.data import Examples
from fulldeck.networks import describe
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop
from fulldeck.workload import encoded
from fulldeck.workloads import make_workload


@pytest.fixture(scope="module")
def data():
    workload = make_workload("digits")
    return encoded(workload, workload.load())


def test_data_are_grey_images_of_ten_digits(data):
    assert isinstance(data.train, Examples)
    assert data.train.inputs.shape == (1797, 1, 8, 8)
    assert data.train.inputs.dtype == np.uint8
    assert data.train.inputs.max() == 255
    assert data.classes == tuple("0123456789")
    assert data.validation is None
    assert data.test is None


def test_model_has_at_least_200_000_parameters_and_can_be_packaged(data):
    model = make_workload("digits").model(data)
    assert sum(parameter.numel() for parameter in model.parameters()) >= 200_000
    assert describe(model)["network"] == "residual_net"


def test_model_takes_what_the_encoder_gives(data):
    model = make_workload("digits").model(data)
    inputs = torch.from_numpy(data.encoder.encode(data.train.take([0, 1, 2]).inputs)["input"])
    assert model(inputs).shape == (3, 10)


def test_learns_within_three_epochs(data):
    workload = make_workload("digits")
    order = np.random.default_rng(0).permutation(1797)
    train, test = data.train.take(order[:1400]), data.train.take(order[1400:])
    torch.manual_seed(0)
    loop = TrainingLoop(
        workload.model(data),
        BatchLoader(train, data.encoder, 64, ShuffledSampler(len(train), 0)),
        workload.loss(data),
        epochs=3,
        optimizer=workload.optimizer(3e-3, 0.05),
        metrics=workload.metrics(data),
        device="cpu",
    )
    loop.fit()
    assert loop.evaluate(BatchLoader(test, data.encoder, 256))["accuracy"] > 0.9
