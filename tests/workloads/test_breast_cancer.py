import numpy as np
import torch

from fulldeck.networks import describe
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop
from fulldeck.workload import encoded
from fulldeck.workloads import make_workload


def test_columns_come_by_name():
    data = make_workload("breast_cancer").load()
    assert data.kind == "table"
    assert data.classes == ("malignant", "benign")
    assert len(data.train.inputs) == 30
    assert data.train.inputs["mean_radius"].shape == (569,)


def test_learns():
    torch.manual_seed(0)
    workload = make_workload("breast_cancer")
    data = encoded(workload, workload.load())
    order = np.random.default_rng(0).permutation(569)
    train, test = data.train.take(order[:450]), data.train.take(order[450:])
    model = workload.model(data)
    assert describe(model)["network"] == "mlp"
    loop = TrainingLoop(
        model,
        BatchLoader(train, data.encoder, 32, ShuffledSampler(len(train), 0)),
        workload.loss(data),
        epochs=10,
        optimizer=workload.optimizer(1e-3, 0.01),
        metrics=workload.metrics(data),
        device="cpu",
    )
    loop.fit()
    assert loop.evaluate(BatchLoader(test, data.encoder, 256))["accuracy"] > 0.93
