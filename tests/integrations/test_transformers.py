import warnings

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import fulldeck as fd
from fulldeck.integrations.transformers import FILE, FulldeckCallback

IDS = torch.randint(2, 30, (48, 6), generator=torch.Generator().manual_seed(0))
ROWS = [{"input_ids": ids, "labels": int(ids[0] > 15)} for ids in IDS]


@pytest.fixture(autouse=True)
def _quiet():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForSequenceClassification(BertConfig(vocab_size=30, max_position_embeddings=8, **sizes))


def trainer(folder, *instructions, callbacks=(), model=None, **arguments):
    settings = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 5e-3,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **arguments,
    }
    return Trainer(
        bert() if model is None else model,
        TrainingArguments(str(folder), **settings),
        train_dataset=ROWS,
        eval_dataset=ROWS,
        callbacks=[*callbacks, *([FulldeckCallback(instructions)] if instructions else [])],
    )


def loop_of(training):
    return next(one.loop for one in training.callback_handler.callbacks if isinstance(one, FulldeckCallback))


class Rates(TrainerCallback):
    def __init__(self):
        self.rates = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **given):
        self.rates.append(optimizer.param_groups[0]["lr"])


def test_the_rate_follows_the_schedule(tmp_path):
    heard = Rates()
    training = trainer(tmp_path, fd.LrScheduler(kind="linear", warmup_steps=2), callbacks=[heard])
    training.train()
    assert loop_of(training).updates == 18
    expected = [5e-3 / 3, 5e-3 * 2 / 3] + [5e-3 * (16 - step) / 16 for step in range(16)]
    assert heard.rates == pytest.approx(expected)


@pytest.mark.parametrize("every", ["epoch", "steps"])
def test_evaluation_sees_the_average_and_the_model_ends_as_it(every, tmp_path):
    arguments = {"eval_strategy": every, "eval_steps": 6}
    training = trainer(tmp_path, fd.WeightAveraging(decay=0.9), **arguments)
    training.train()
    seen = [entry["eval_loss"] for entry in training.state.log_history if "eval_loss" in entry]
    assert len(seen) == 3
    assert training.evaluate()["eval_loss"] == pytest.approx(seen[-1])
    plain = trainer(tmp_path, **arguments)
    plain.train()
    assert plain.evaluate()["eval_loss"] != pytest.approx(seen[-1], rel=1e-3)


def test_early_stopping_stops_and_hands_over_the_best(tmp_path):
    stop = fd.EarlyStopping(patience=2, min_delta=10.0)
    training = trainer(tmp_path, stop, eval_strategy="epoch", num_train_epochs=20)
    training.train()
    assert loop_of(training).stopped == "no better loss for 2 epochs"
    assert training.state.epoch < 6
    best = loop_of(training).reported["early_stopping"]["validation_loss"]["after"]
    assert training.evaluate()["eval_loss"] == pytest.approx(best)


def test_a_step_that_is_not_finite_is_left_out(tmp_path):
    class Poisoned(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.calls = model, 0

        def forward(self, input_ids, labels=None):
            self.calls += self.training
            outputs = self.model(input_ids=input_ids, labels=labels)
            if self.calls == 7:
                outputs.loss = outputs.loss * float("nan")
            return outputs

    model = Poisoned(bert())
    training = trainer(tmp_path, fd.GradientStabilization(), model=model)
    training.train()
    assert sum(loop_of(training).skipped.values()) == 1
    assert loop_of(training).updates == 17
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_adapters_are_all_that_is_trained_and_are_merged(tmp_path):
    model = bert()
    before = [type(module) for module in model.modules()]
    embeddings = model.bert.embeddings.word_embeddings.weight.clone()
    training = trainer(tmp_path, fd.ParameterEfficientFinetuning(rank=2), model=model)
    training.train()
    assert [type(module) for module in model.modules()] == before
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, embeddings)
    optimized = sum(p.numel() for group in training.optimizer.param_groups for p in group["params"])
    assert optimized < 0.2 * model.num_parameters()
    assert loop_of(training).reported["parameter_efficient_finetuning"]["merge_difference"]["after"] < 1e-5


def test_checkpointed_blocks_train_to_the_same_weights(tmp_path):
    model, plain = bert(), bert()
    trainer(tmp_path, fd.GradientCheckpointing(), model=model).train()
    trainer(tmp_path, model=plain).train()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_what_instructions_keep_is_in_the_trainers_checkpoints(tmp_path):
    instructions = (fd.LrScheduler(kind="linear"), fd.WeightAveraging(decay=0.9))
    arguments = {"save_strategy": "steps", "save_steps": 7}
    whole = trainer(tmp_path / "whole", *instructions, **arguments)
    whole.train()
    assert (tmp_path / "whole" / "checkpoint-7" / FILE).is_file()
    again = trainer(tmp_path / "whole", *instructions, **arguments)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-7"))
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_what_the_trainer_cannot_meet_is_refused_before_training(tmp_path):
    with pytest.raises(fd.BadInput) as refused:
        trainer(tmp_path, fd.AmpOptimizer(), fd.OptimizerSelection(), fd.LrScheduler())
    text = str(refused.value)
    assert text.startswith("the Trainer of transformers cannot meet what some instructions need")
    assert (
        'amp_optimizer: it wraps the phase "gradients", and the trainer computes the gradients itself' in text
    )
    assert (
        "optimizer_selection: it uses build_optimizers, and the trainer builds the optimizer itself" in text
    )
    assert "; lr_scheduler" not in text
    with pytest.raises(fd.BadInput, match="early_stopping needs validation data"):
        trainer(tmp_path, fd.EarlyStopping())
    late = trainer(tmp_path)
    late.add_callback(FulldeckCallback([fd.LrScheduler()]))
    with pytest.raises(fd.BadInput, match=r"is for Trainer\(callbacks=\[...\]\); it was added later"):
        late.train()
