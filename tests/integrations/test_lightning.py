import copy
import logging
import warnings
from typing import ClassVar

import lightning
import pytest
import torch
from torch import nn

import fulldeck as fd
from fulldeck.integrations.lightning import FulldeckCallback

INPUTS = torch.randn(90, 6, generator=torch.Generator().manual_seed(1))
TARGETS = (INPUTS[:, 0] + INPUTS[:, 1] > 0).long()
DATA = torch.utils.data.TensorDataset(INPUTS, TARGETS)


@pytest.fixture(autouse=True)
def _quiet():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        block = lambda: nn.Sequential(nn.Linear(16, 16), nn.ReLU())  # noqa: E731
        self.net = nn.Sequential(nn.Linear(6, 16), block(), block(), nn.Linear(16, 2))
        self.poison_at = None

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, place):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        return loss * float("nan") if self.trainer.global_step == self.poison_at else loss

    def validation_step(self, batch, place):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.02)


def trainer(*instructions, folder=None, epochs=3, **options):
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=folder is not None,
        default_root_dir=folder,
        callbacks=[FulldeckCallback(instructions)],
        **options,
    )


def batches(size=16):
    return torch.utils.data.DataLoader(DATA, batch_size=size)


def fit(*instructions, model=None, **options):
    model = Model() if model is None else model
    training = trainer(*instructions, **options)
    training.fit(model, batches(), batches(90))
    return model, training.callbacks[0].loop, training


def test_the_rate_follows_the_schedule_as_in_the_loop_of_fulldeck():
    def rates(loop):
        found = []
        return found, lambda batch: found.append(loop.optimizers[0].param_groups[0]["lr"])

    schedule = fd.LrScheduler(kind="linear", warmup=0.2)
    own = fd.TrainingLoop(
        Model().net,
        batches(),
        nn.functional.cross_entropy,
        instructions=[schedule],
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.02),
        epochs=3,
        device="cpu",
    )
    expected, hear = rates(own)
    own.on("batch_start", hear)
    fitted = own.fit()

    class Hear(lightning.Callback):
        rates: ClassVar = []

        def on_train_batch_start(self, trainer, module, batch, place):
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    training = trainer(schedule)
    training.callbacks.append(Hear())
    model = Model()
    training.fit(model, batches())
    assert Hear.rates == pytest.approx(expected)
    for one, other in zip(model.net.parameters(), fitted.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_validation_sees_the_average_and_the_module_ends_as_it():
    class Kept(Model):
        seen: ClassVar = []

        def on_validation_epoch_end(self):
            if not self.trainer.sanity_checking:
                self.seen.append(copy.deepcopy(self.net.state_dict()))

    model, _, training = fit(fd.WeightAveraging(decay=0.9), model=Kept())
    last = model.net.state_dict()
    assert all(torch.equal(model.seen[-1][name], last[name]) for name in last)
    plain, _, before = fit()
    assert training.callback_metrics["val_loss"] != before.callback_metrics["val_loss"]
    assert not torch.equal(plain.net[0].weight, model.net[0].weight)


def test_early_stopping_stops_and_hands_over_the_best():
    model, loop, training = fit(fd.EarlyStopping(patience=2, min_delta=10.0), epochs=20)
    assert loop.stopped == "no better loss for 2 epochs"
    assert training.current_epoch < 6
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(INPUTS), TARGETS).item()
    assert loss == pytest.approx(loop.reported["early_stopping"]["validation_loss"]["after"])


def test_a_step_that_is_not_finite_is_left_out():
    model = Model()
    model.poison_at = 7
    model, loop, _ = fit(fd.GradientStabilization(), model=model)
    assert sum(loop.skipped.values()) == 1
    assert loop.updates == 3 * 6 - 1
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_adapters_and_checkpointed_blocks_are_gone_after_fit():
    before = [type(module) for module in Model().modules()]
    model, loop, _ = fit(fd.ParameterEfficientFinetuning(rank=2), fd.GradientCheckpointing())
    assert [type(module) for module in model.modules()] == before
    assert loop.reported["parameter_efficient_finetuning"]["merge_difference"]["after"] < 1e-5
    assert loop.reported["gradient_checkpointing"]["checkpointed_blocks"]["after"] == 2
    assert model(INPUTS).argmax(1).eq(TARGETS).float().mean() > 0.8


def test_accumulation_is_one_step():
    _, loop, training = fit(fd.LrScheduler(kind="linear"), accumulate_grad_batches=2)
    assert training.global_step == loop.updates == 9


def test_what_instructions_keep_is_in_lightnings_checkpoints(tmp_path):
    instructions = (fd.LrScheduler(kind="linear"), fd.WeightAveraging(decay=0.9))
    whole, _, _ = fit(*instructions, epochs=4)

    # Stopped in the middle of the same schedule, as a killed job would be.
    class Stop(lightning.Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == 1:
                trainer.should_stop = True

    first = trainer(*instructions, epochs=4, folder=tmp_path)
    first.callbacks.append(Stop())
    first.callbacks.append(lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, filename="last"))
    first.fit(Model(), batches(), batches(90))
    model = Model()
    second = trainer(*instructions, epochs=4)
    second.fit(model, batches(), batches(90), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=False)
    for one, other in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_what_lightning_cannot_meet_is_refused_before_training_with_each_reason():
    model = Model()
    with pytest.raises(fd.BadInput) as refused:
        fit(fd.AmpOptimizer(dtype="bfloat16"), fd.DynamicBatchScheduler(), fd.LrScheduler(), model=model)
    text = str(refused.value)
    assert text.startswith(
        "Lightning's Trainer cannot meet what some instructions need; leave them out, or train"
    )
    assert (
        'amp_optimizer: it wraps the phase "gradients", and the trainer computes the gradients itself' in text
    )
    assert "dynamic_batch_scheduler: it " in text
    assert "lr_scheduler" not in text
    assert model.trainer.global_step == 0
    with pytest.raises(fd.BadInput, match="uses build_optimizers, and the trainer builds the optimizer"):
        fit(fd.OptimizerSelection())
    with pytest.raises(fd.BadInput, match="it uses carry, and the trainer has no later door"):
        fit(fd.ParameterEfficientFinetuning(save_adapters=True))
    for trying in (fd.LrScheduler(range_test=True), fd.GradientCheckpointing(budget="1GiB")):
        untouched = Model()
        with pytest.raises(fd.BadInput, match=r"uses (run_step|weigh), and the trainer"):
            fit(trying, model=untouched)
        assert untouched.trainer.global_step == 0
    with pytest.raises(fd.BadInput, match="onnx_export does nothing in training"):
        FulldeckCallback([fd.OnnxExport()])
