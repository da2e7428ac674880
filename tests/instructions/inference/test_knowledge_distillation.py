import copy
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fulldeck.data import Data, Examples
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.encoders.text import TextEncoder
from fulldeck.errors import BadInput, CannotAct, RunFailed
from fulldeck.instructions.deployment.model_packaging import package_model
from fulldeck.instructions.inference.knowledge_distillation import (
    KnowledgeDistillation,
    distillation_loss,
    soft_target_loss,
)
from fulldeck.instructions.inference.knowledge_distillation.answers import KeptAnswers, row_keys
from fulldeck.instructions.inference.knowledge_distillation.features import HEAD, Listener, matching_layers
from fulldeck.instructions.inference.knowledge_distillation.teacher import open_teacher
from fulldeck.instructions.inference.onnx_export import OnnxExport
from fulldeck.instructions.inference.quantization_aware_training import (
    QuantizationAwareTraining,
    convert,
    prepare_qat,
)
from fulldeck.networks.mobile_net import MobileNet
from fulldeck.networks.text_transformer import TextTransformer
from fulldeck.pipeline.run import run
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop
from fulldeck.weights import save_weights
from tests.interruption import interrupt

ROWS = 64
OUTPUTS_ONLY = (0.5, 0.0, 0.5)


def rows() -> Examples:
    """Images whose bright third is the class."""
    random = np.random.default_rng(0)
    targets = np.arange(ROWS) % 3
    images = random.random((ROWS, 1, 8, 8), dtype=np.float32)
    for image, target in zip(images, targets, strict=True):
        image[:, 2 * target : 2 * target + 2] += 1.0
    return Examples(images, targets)


def data(**changes) -> Data:
    some = rows()
    made = Data(
        "thirds", "tensor", "classification", some, some, some, ("a", "b", "c"), TensorEncoder((1, 8, 8))
    )
    return replace(made, **changes)


def student() -> MobileNet:
    torch.manual_seed(1)
    return MobileNet(1, 3, widths=(4, 8), blocks=2, features=16)


class Counting(nn.Module):
    """A teacher that knows the answer, and counts the rows that it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.head = nn.Linear(3, 3, bias=False)
        nn.init.eye_(self.head.weight)

    def forward(self, x):
        self.asked += len(x)
        return self.head(
            torch.stack([x[:, 0, 2 * i : 2 * i + 2].mean(dim=(1, 2)) * 20 for i in range(3)], dim=1)
        )


TEACHER = Counting()


def knowing() -> nn.Module:
    TEACHER.asked = 0
    return TEACHER


def module_of_nothing() -> int:
    return 3


sys.modules["teachers_of_a_test"] = sys.modules[__name__]
FACTORY = "teachers_of_a_test:knowing"


def loop_of(*instructions, model=None, given=None, **settings) -> TrainingLoop:
    given = given or data()
    return TrainingLoop(
        model or student(),
        BatchLoader(given.train, given.encoder, 16, ShuffledSampler(len(given.train), 0)),
        nn.functional.cross_entropy,
        instructions=instructions,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
        validation=BatchLoader(given.train, given.encoder, 64),
        metrics={"accuracy": lambda outputs, targets: float((outputs.argmax(1) == targets).double().mean())},
        device="cpu",
        data=given,
        **settings,
    )


def by_outputs(**settings) -> KnowledgeDistillation:
    return KnowledgeDistillation(**{"teacher": FACTORY, "weights": OUTPUTS_ONLY, **settings})


# The losses ----------------------------------------------------------------------------------------------


def test_the_loss_is_the_weighted_sum_of_the_three():
    torch.manual_seed(0)
    own, teachers, labels = torch.randn(6, 4), torch.randn(6, 4), torch.arange(6) % 4
    one, other = torch.randn(6, 5), torch.randn(6, 5)
    p, q = (teachers / 2).softmax(1), (own / 2).softmax(1)
    soft = 4 * (p * (p / q).log()).sum(1).mean()
    inner = ((one - other) ** 2).mean() / (other**2).mean()
    expected = 0.4 * soft + 0.3 * inner + 0.3 * nn.functional.cross_entropy(own, labels)
    loss = distillation_loss(own, teachers, labels, features=[(one, other)], temperature=2.0)
    assert torch.allclose(loss, expected)


def test_tokens_that_do_not_count_teach_nothing():
    torch.manual_seed(0)
    own, teachers = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    targets = torch.tensor([[1, 2, -100], [-100, -100, -100]])
    alone = soft_target_loss(own[0, :2], teachers[0, :2], targets[0, :2])
    assert torch.allclose(soft_target_loss(own, teachers, targets), alone)


def test_values_are_learnt_by_the_trainings_own_loss():
    own, teachers = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0])
    loss = soft_target_loss(own, teachers, torch.zeros(2), loss=nn.functional.mse_loss)
    assert loss == nn.functional.mse_loss(own, teachers)


def test_outputs_of_other_shapes_are_refused():
    with pytest.raises(
        BadInput, match=r"the outputs of student and teacher must be alike.*\[2, 3\] and \[2, 4\]"
    ):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2).long())


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (1.0, -0.1, 0.1)])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(BadInput, match=r"knowledge_distillation.weights.*such as \[0.4, 0.3, 0.3\]"):
        KnowledgeDistillation(weights=weights)


# In a training --------------------------------------------------------------------------------------------


def test_a_student_learns_what_the_labels_do_not_tell():
    wrong = replace(rows(), targets=np.random.default_rng(3).integers(3, size=ROWS))
    loop = loop_of(by_outputs(weights=(1.0, 0.0, 0.0)), given=data(train=wrong), epochs=8)
    loop.fit()
    truth = torch.from_numpy(rows().targets)
    outputs, _ = loop.predict(loop.validation)
    assert float((outputs.argmax(1) == truth).double().mean()) > 0.9


def test_the_teacher_reads_the_training_rows_once():
    loop = loop_of(by_outputs(), epochs=4)
    looked = TEACHER.asked
    loop.fit()
    assert looked <= 8
    assert TEACHER.asked == looked + ROWS + ROWS  # once for training, once to be compared in the end


def test_where_rows_change_the_teacher_sees_what_the_student_sees():
    loop = loop_of(by_outputs(), epochs=2)
    seen = []

    def brighter(batch):
        batch.inputs = batch.inputs + torch.rand(len(batch.inputs), 1, 1, 1)

    loop.on("batch_start", brighter)
    loop.on("part_start", lambda part: seen.append(part.inputs))
    before, asked = TEACHER.forward, []

    def forward(x):
        asked.append(x)
        return before(x)

    TEACHER.forward = forward
    try:
        loop.fit()
    finally:
        del TEACHER.forward
    assert all(torch.equal(one, other) for one, other in zip(seen, asked[: len(seen)], strict=True))
    assert [note for note in loop.notes if "asked in every step" in note]


def test_the_loss_that_is_told_is_that_of_the_labels():
    plain, taught = loop_of(max_steps=1), loop_of(by_outputs(), max_steps=1)
    plain.fit()
    taught.fit()
    assert plain.history[0]["loss"] == taught.history[0]["loss"]


def test_parts_of_a_batch_add_up_to_the_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))
    gradients = []
    for size in (None, 5):
        loop = loop_of(by_outputs(), model=copy.deepcopy(model), max_steps=1, micro_batch=size)

        def note(batch, loop=loop):
            gradients.append([parameter.grad.clone() for parameter in loop.model.parameters()])

        loop.on("before_step", note)
        loop.fit()
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_inner_layers_come_near_and_the_projection_stays_behind():
    instruction = KnowledgeDistillation(weights=(0.0, 1.0, 0.0), teacher="residual_net", teacher_epochs=1)
    loop = loop_of(instruction, epochs=6)
    state = loop.states["knowledge_distillation"]
    assert state.fit.pairs == (("blocks.2", "blocks.1"), (HEAD, HEAD))
    assert [(p.in_features, p.out_features) for p in state.fit.projectors] == [(8, 64), (16, 128)]
    told = []
    loop.on("after_forward", lambda part: told.append(sum(part.terms[-2:]).item()))
    trained = loop.fit()
    assert sum(told[-4:]) < 0.7 * sum(told[:4])
    assert trained.state_dict().keys() == student().state_dict().keys()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in trained.modules())


def test_figures_compare_teacher_and_student():
    loop = loop_of(by_outputs(), epochs=4)
    loop.fit()
    figures = loop.reported["knowledge_distillation"]
    assert figures["teacher_accuracy"]["after"] == 1.0
    assert figures["student_accuracy"]["after"] == loop.history[-1]["validation_accuracy"]
    assert figures["weight_bytes"]["after"] == sum(
        t.numel() * t.element_size() for t in student().state_dict().values()
    )


def test_a_teacher_that_is_trained_first_is_not_trained_again_on_resume(tmp_path, caplog):
    def made():
        instruction = KnowledgeDistillation(teacher="residual_net", teacher_epochs=2)
        return loop_of(instruction, epochs=3, checkpoints=tmp_path, checkpoint_every=1)

    expected = made().fit().state_dict()
    interrupt(made(), 6)
    caplog.set_level("INFO", logger="fulldeck.training")
    resumed = made()
    end = resumed.fit(resume=True).state_dict()
    assert not [record for record in caplog.records if "training the teacher" in record.message]
    assert all(torch.equal(end[name], value) for name, value in expected.items())


def test_training_the_teacher_draws_no_numbers_of_the_training():
    ends = []
    for epochs in (1, 2):
        loop = loop_of(KnowledgeDistillation(teacher_epochs=epochs), max_steps=1, model=student())
        drawn = []
        loop.on("after_forward", lambda part, drawn=drawn: drawn.append(torch.rand(3)))
        loop.fit()
        ends.append(drawn[0])
    assert torch.equal(*ends)


@pytest.mark.slow
def test_quantised_in_the_same_training_it_goes_on_learning_from_inner_layers():
    taught = KnowledgeDistillation(weights=(0.3, 0.4, 0.3), teacher="residual_net", teacher_epochs=1)
    loop = loop_of(taught, QuantizationAwareTraining(start_fraction=0.5), epochs=4)
    terms = []
    loop.on("after_forward", lambda part: terms.append(len(part.terms)))
    trained = loop.fit()
    assert set(terms) == {4}
    assert not loop.notes
    assert not [name for name, _ in trained.named_modules() if "listener" in name]
    integers = convert(trained)
    inputs = torch.from_numpy(rows().inputs)
    assert torch.allclose(integers(inputs), trained(inputs), atol=1e-3)


def test_a_listener_hears_in_a_graph_what_the_module_gave():
    model = student()
    inputs = torch.from_numpy(rows().inputs)
    prepared = prepare_qat(model, inputs).train()
    listener = Listener(prepared, ["blocks.2", HEAD], 3)
    assert listener.complete
    outputs = prepared(inputs)
    block, read = listener.take()
    assert block.shape == (ROWS, 8, 4, 4)
    assert read.shape == (ROWS, 16)
    assert torch.allclose(nn.functional.linear(read, model.head.weight, model.head.bias), outputs, atol=0.2)
    listener.remove()
    assert not Listener(prepared, ["blocks.2", "pool.nothing"], 3).complete


# Where teachers come from ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught_run(tmp_path_factory):
    """A run on digits of two steps, with its package."""
    import fulldeck as fd

    out = tmp_path_factory.mktemp("runs")
    result = run(
        "digits", [fd.LeakageSafeSplitting(), fd.ModelPackaging()], out=out, max_steps=2, threads=1, epochs=1
    )
    return out / result["run"].rpartition("/")[2]


@pytest.fixture(scope="module")
def digits_data(taught_run):
    """The data of that run, as a further run has it."""
    from fulldeck.pipeline.execution import Execution
    from fulldeck.pipeline.run import situation
    from fulldeck.planner import make_plan
    from fulldeck.recipe.reader import read_recipe
    from fulldeck.run_folder import RunFolder
    from fulldeck.watchers.watcher import Watcher

    recipe = read_recipe(taught_run / "recipe.yaml")
    execution = Execution(make_plan(recipe, situation(recipe)), RunFolder(taught_run), False, Watcher())
    return execution.prepare(recipe.workload.load())


@pytest.mark.parametrize("part", ["", "package"])
def test_a_run_and_a_package_teach(taught_run, digits_data, part):
    from safetensors.torch import load_file

    teacher = open_teacher(str(taught_run / part), MobileNet(1, 10), digits_data)
    assert teacher.trained
    assert teacher.layered
    assert teacher.encoder is None
    assert not teacher.notes
    state = teacher.module.state_dict()
    saved = load_file(taught_run / "artifacts" / "model.safetensors")
    assert all(torch.equal(state[name], value) for name, value in saved.items())


def test_a_run_on_another_test_is_remarked_on(taught_run, digits_data):
    fewer = replace(digits_data, test=digits_data.test.take(np.arange(9)))
    teacher = open_teacher(str(taught_run), MobileNet(1, 10), fewer)
    assert "may have learnt from rows that are the test here" in teacher.notes[0]


def test_a_teacher_of_other_classes_is_refused(taught_run, digits_data):
    with pytest.raises(BadInput, match=r"knows 10 classes, and this training has 3"):
        open_teacher(str(taught_run), student(), data(encoder=digits_data.encoder))
    swapped = replace(digits_data, classes=("1", "0", *"23456789"))
    with pytest.raises(BadInput, match=r'class 0 of .* is "0", and here it is "1"'):
        open_teacher(str(taught_run / "package"), MobileNet(1, 10), swapped)
    with pytest.raises(BadInput, match="the teacher gives 3 classes, and the student 4; it must have learnt"):
        loop_of(by_outputs(), model=MobileNet(1, 4, widths=(4, 8)))


def test_a_package_of_an_onnx_file_teaches_by_its_outputs(trained, tmp_path):
    exported = OnnxExport().optimise(replace(trained, folder=tmp_path))
    encoder, example = trained.data.encoder, trained.example()
    folder = package_model(tmp_path / "package", [exported.artifact], encoder, example, name="digits")
    with pytest.raises(BadInput, match=r"runs in an engine, .*write weights: \[0.5, 0, 0.5\]"):
        loop_of(KnowledgeDistillation(teacher=str(folder)), model=MobileNet(1, 10), given=trained.data)
    instruction = KnowledgeDistillation(teacher=str(folder), weights=OUTPUTS_ONLY)
    loop = loop_of(instruction, model=MobileNet(1, 10), given=trained.data, max_steps=3)
    loop.fit()
    inputs, _ = next(loop.validation.batches(0))
    answers = loop.states["knowledge_distillation"].ask(inputs)[0]
    with torch.no_grad():
        assert torch.allclose(answers, trained.module(inputs), atol=1e-4)


def test_a_package_for_images_of_another_size_is_refused(taught_run, digits_data):
    from fulldeck.encoders.image import ImageEncoder

    larger = replace(digits_data, encoder=ImageEncoder(1, 16, 16))
    with pytest.raises(BadInput, match="takes image inputs with height 8, and this training has 16"):
        open_teacher(str(taught_run / "package"), MobileNet(1, 10), larger)


def test_an_unfinished_run_is_refused(taught_run, digits_data, tmp_path):
    (tmp_path / "recipe.yaml").write_bytes((taught_run / "recipe.yaml").read_bytes())
    (tmp_path / "result.json").write_text(json.dumps({"status": "failed"}))
    with pytest.raises(BadInput, match="is failed; go on with: fulldeck run RECIPE --resume"):
        open_teacher(str(tmp_path), student(), digits_data)
    (tmp_path / "result.json").write_text(json.dumps({"status": "finished"}))
    with pytest.raises(BadInput, match=r"has no artifacts/model\.safetensors"):
        open_teacher(str(tmp_path), student(), digits_data)


def test_a_run_that_was_quantised_in_training_is_refused(taught_run, tmp_path):
    from fulldeck.errors import BadInput

    graph = prepare_qat(student(), torch.from_numpy(rows().inputs))
    (tmp_path / "artifacts").mkdir()
    save_weights(graph, tmp_path / "artifacts" / "model.safetensors")
    (tmp_path / "recipe.yaml").write_bytes((taught_run / "recipe.yaml").read_bytes())
    (tmp_path / "result.json").write_text(json.dumps({"status": "finished"}))
    with pytest.raises(BadInput, match="take a run without it"):
        open_teacher(str(tmp_path), student(), None)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("residual_nets", "did you mean residual_net"),
        ("no/such/folder", "is no folder here"),
        ("teachers_of_a_test:known", "has no function known; did you mean knowing"),
        ("teachers_of_a_test:module_of_nothing", "must return a trained torch module, got int"),
        ("gpt", "gpt needs vocabulary, which mobile_net has not"),
    ],
)
def test_what_is_no_teacher_is_refused_with_what_may_be_one(where, said):
    with pytest.raises(BadInput, match=said):
        open_teacher(where, student(), data())


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is no run, no package and no folder of transformers"):
        open_teacher(str(tmp_path), student(), data())


def test_a_teacher_is_made_after_a_built_in_student_only():
    wider = open_teacher(None, student(), None)
    assert not wider.trained
    assert wider.module.arguments["widths"] == [8, 16]
    assert wider.module.arguments["features"] == 32
    with pytest.raises(CannotAct, match="name a teacher: a run's folder"):
        open_teacher(None, nn.Linear(2, 2), None)


def test_layers_are_named_in_pairs():
    taught = {"teacher": "residual_net", "teacher_epochs": 1}
    loop = loop_of(KnowledgeDistillation(**taught, layers=[["blocks.0", "blocks.0"]]), max_steps=1)
    assert loop.states["knowledge_distillation"].fit.sizes == ((4, 4),)
    with pytest.raises(BadInput, match=r'MobileNet has no module "blocks\.9"'):
        loop_of(KnowledgeDistillation(**taught, layers=[["blocks.9", "blocks.0"]]))


def test_without_layers_that_belong_together_the_remedy_is_told():
    without_linear = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    assert matching_layers(without_linear, TEACHER, 3) == []
    with pytest.raises(BadInput, match=r"name pairs in layers .*or write weights: \[0.5, 0, 0.5\]"):
        loop_of(KnowledgeDistillation(teacher=FACTORY), model=without_linear)


def test_batches_that_can_be_read_once_are_refused():
    batches = iter([(torch.zeros(2, 1, 8, 8), torch.zeros(2).long())])
    with pytest.raises(BadInput, match="these can be read once only"):
        TrainingLoop(
            student(), batches, nn.functional.cross_entropy, instructions=[by_outputs()], device="cpu"
        )


# Transformers ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A classifier of two classes in a folder, and texts for it."""
    transformers = pytest.importorskip("transformers", reason='pip install "fulldeck[huggingface]"')
    from tests.workloads.pretrained_folders import SENTENCES, SMALL, bert_tokenizer

    folder = tmp_path_factory.mktemp("bert")
    bert_tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("bert", **SMALL["bert"], num_labels=2)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder, SENTENCES[:40]


def texts(sentences, encoder) -> Data:
    some = Examples(list(sentences), np.arange(len(sentences)) % 2)
    return Data("texts", "text", "classification", some, some, some, ("0", "1"), encoder)


def test_a_folder_of_transformers_teaches_a_student_with_another_tokenizer(bert):
    folder, sentences = bert
    encoder = TextEncoder.fit(sentences, vocabulary=300, length=12)
    given = texts(sentences, encoder)
    torch.manual_seed(0)
    model = TextTransformer(encoder.vocabulary, 12, 2, width=16, layers=2, heads=2)
    loop = loop_of(KnowledgeDistillation(teacher=str(folder)), model=model, given=given, epochs=2)
    state = loop.states["knowledge_distillation"]
    assert state.fit.pairs == (("blocks.1", "model.bert.encoder.layer.1"), (HEAD, HEAD))
    loop.fit()
    inputs, _ = next(loop.loader.batches(0))
    rows = loop.loader.sampler.indices(0)[:16]
    ids = torch.from_numpy(state.teacher.encoder.encode([sentences[i] for i in rows])["input"])
    with torch.no_grad():
        assert torch.allclose(state.ask(inputs)[0], state.module(ids), atol=1e-5)
    with pytest.raises(RunFailed, match="reads raw items in its own way"):
        state.ask(inputs.flip(1))


def test_a_folder_of_transformers_with_other_classes_or_random_weights_is_refused(bert, tmp_path):
    folder, sentences = bert
    encoder = TextEncoder.fit(sentences, vocabulary=300, length=12)
    three = replace(texts(sentences, encoder), classes=("a", "b", "c"))
    with pytest.raises(BadInput, match="knows 2 classes, and this training has 3"):
        open_teacher(str(folder), student(), three)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(BadInput, match="random weights teach nothing"):
        open_teacher(str(tmp_path), student(), texts(sentences, encoder))


# What is kept -----------------------------------------------------------------------------------------------


def test_rows_are_found_by_their_content_in_any_order():
    inputs = torch.randn(20, 3, 4)
    kept = KeptAnswers(row_keys(inputs), [torch.arange(20)])
    chosen = torch.tensor([7, 3, 3, 19])
    assert kept.find(inputs[chosen])[0].tolist() == chosen.tolist()
    assert kept.find(inputs[:2] + 1e-6) is None
    named = {"ids": torch.arange(6).view(3, 2), "mask": torch.ones(3, 2)}
    assert len(set(row_keys(named).tolist())) == 3
