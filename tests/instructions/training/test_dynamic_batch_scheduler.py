import os
import resource
import subprocess
import sys

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from fulldeck.data import Examples
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.errors import BadInput, RunFailed
from fulldeck.instruction import Situation
from fulldeck.instructions.training.amp_optimizer import AmpOptimizer
from fulldeck.instructions.training.dynamic_batch_scheduler import (
    DynamicBatchScheduler,
    largest_batch,
    token_budget_batches,
)
from fulldeck.instructions.training.gradient_checkpointing import GradientCheckpointing
from fulldeck.instructions.training.weight_averaging import WeightAveraging
from fulldeck.machine import recent_peak, reset_peak
from fulldeck.memory import give_back, memory_in_use, parse_bytes, spoken_bytes
from fulldeck.planner import make_plan
from fulldeck.recipe.recipe import make_recipe
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop

CPU = torch.device("cpu")
SITUATION = Situation("image", "classification", "cpu")
PER_SAMPLE = 4 * 7_500 * 4 * 4  # bytes: 4 x 7,500 floats, of which forward and backward hold four


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_memory_as_it_is():
    """The functions called check_* read this process's memory, so they get a process in which nothing was before."""
    options = ["-o", "python_functions=check_*", "-p", "no:cacheprovider"]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", *options, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout


class Wide(nn.Module):
    """Takes half a megabyte a sample, in hardly any time."""

    def __init__(self, between=nn.Identity):
        super().__init__()
        self.up, self.between, self.head = nn.Linear(8, 4), between(), nn.Linear(4, 2)

    def forward(self, x):
        y = self.between(self.up(x))
        return self.head(y.unsqueeze(-1).expand(*y.shape, 7_500).sigmoid().exp().mean(-1))


def batches(sizes):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(size, 8, generator=generator) for size in sizes]
    return [(x, (x.sum(1) > 0).long()) for x in inputs]


def make_loop(*instructions, model=Wide, loader=None, sizes=(128,) * 6, **settings):
    torch.manual_seed(0)
    return TrainingLoop(
        model(),
        batches(sizes) if loader is None else loader,
        nn.functional.cross_entropy,
        instructions=instructions,
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.01),
        device="cpu",
        **settings,
    )


def room(samples, high=0.85):
    """A budget in which so many samples fit below the high mark."""
    make_loop(sizes=(8,)).fit()
    give_back(CPU)
    return spoken_bytes((memory_in_use(CPU) + samples * PER_SAMPLE) / high)


def rows_of(loop):
    """The sizes of the parts of each step, noted while the loop runs."""
    seen = []
    loop.on("batch_start", lambda batch: seen.append([]))
    loop.on("part_start", lambda part: seen[-1].append(len(part.targets)))
    return seen


def weights(loop, **settings):
    return list(loop.fit(**settings).state_dict().values())


def equal(some, others):
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def close(some, others):
    return all(torch.allclose(one, other, atol=1e-5) for one, other in zip(some, others, strict=True))


# What fits ------------------------------------------------------------------------------------------------


def check_two_probes_foresee_what_fits_and_the_weights_are_the_same():
    loop = make_loop(DynamicBatchScheduler(budget=room(50)))
    rows = rows_of(loop)
    trained = weights(loop)
    assert rows[0][:3] == [8, 8, 32]  # two probes, the first of them twice
    assert rows[0][3:] == [43, 43, 42]
    assert rows[1:] == [[43, 43, 42]] * 5
    used = loop.reported["dynamic_batch_scheduler"]["memory_used"]["after"]
    assert 0.6 < used < 0.86
    assert loop.reported["dynamic_batch_scheduler"]["micro_batch"] == {"before": 128, "after": 43}
    assert close(trained, weights(make_loop()))
    assert loop.micro_batch is None


def test_what_fits_is_not_changed_by_a_bit():
    dropping = {"model": lambda: Wide(lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.3)))}
    loop = make_loop(DynamicBatchScheduler(), **dropping)
    rows = rows_of(loop)
    assert equal(weights(loop), weights(make_loop(**dropping)))
    assert rows[1:] == [[128]] * 5
    assert not loop.notes


def check_ragged_batches_and_a_given_micro_batch():
    sizes = (
        128,
        110,
        7,
        128,
        1,
    )  # none of which is next to a multiple of 50: what is measured varies a little
    loop = make_loop(DynamicBatchScheduler(budget=room(50)), sizes=sizes)
    rows = rows_of(loop)
    assert close(weights(loop), weights(make_loop(sizes=sizes)))
    assert rows[1:] == [[37, 37, 36], [7], [43, 43, 42], [1]]
    loop = make_loop(DynamicBatchScheduler(), micro_batch=60)
    rows = rows_of(loop)
    loop.fit()
    assert rows[1:] == [[43, 43, 42]] * 5
    assert loop.micro_batch == 60


class Tokens(nn.Module):
    """The same for each of T tokens."""

    def __init__(self):
        super().__init__()
        self.words, self.wide = nn.Embedding(9, 8), Wide()

    def forward(self, tokens):
        return self.wide(self.words(tokens)).mean(1)


def check_parts_hold_equally_many_tokens():
    def loader(lengths):
        generator = torch.Generator().manual_seed(0)
        inputs = [torch.randint(0, 9, (16, length), generator=generator) for length in lengths]
        return [(x, (x.sum(1) > 4 * x.shape[1]).long()) for x in inputs]

    lengths = (8, 8, 2, 16, 8)
    loop = make_loop(
        DynamicBatchScheduler(budget=room(64), unit="tokens"), model=Tokens, loader=loader(lengths)
    )
    rows = rows_of(loop)
    assert close(weights(loop), weights(make_loop(model=Tokens, loader=loader(lengths))))
    assert [max(parts) * length for parts, length in zip(rows[1:], lengths[1:], strict=True)] == [
        48,
        32,
        48,
        48,
    ]
    with pytest.raises(BadInput, match="write unit: samples"):
        make_loop(
            DynamicBatchScheduler(unit="tokens"),
            model=lambda: nn.Embedding(9, 2),
            loader=[(torch.ones(8).long(), torch.ones(8).long())],
        ).fit()


# Watching -------------------------------------------------------------------------------------------------


class Leaks:
    """Something else takes memory from one step on, and gives it back at another."""

    def __init__(self, loop, samples, start, end):
        self.held = None

        def hold(batch):
            if loop.step == start:
                self.held = torch.ones(samples * PER_SAMPLE // 4)
            if loop.step == end:
                self.held = None

        loop.on("batch_start", hold)


def check_parts_are_halved_above_the_high_mark_and_grow_again_below_the_low_one():
    instruction = DynamicBatchScheduler(budget=room(200), low=0.84, patience=1)
    loop = make_loop(instruction, sizes=(128,) * 32)
    rows = rows_of(loop)
    Leaks(loop, 110, start=2, end=11)
    trained = weights(loop)
    assert rows[1] == rows[2] == [128]
    assert rows[3] == [64, 64]
    assert rows[11] == [64, 64]  # it waits for a reading below the low mark
    assert rows[-1] == [128]
    assert close(trained, weights(make_loop(sizes=(128,) * 32)))


@pytest.mark.parametrize("amp", [False, True])
def test_a_step_that_runs_out_of_memory_is_done_again_on_the_same_samples(amp):
    def build(*more):
        others = [AmpOptimizer(dtype="float16", initial_scale=1024.0)] if amp else []
        return make_loop(
            *more,
            *others,
            model=lambda: Wide(lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.3))),
            micro_batch=None if more else 32,
        )

    loop = build(DynamicBatchScheduler())
    rows = rows_of(loop)

    def full(part):
        # The first part of a batch is there before the second does not fit.
        if len(part.targets) > 40 and loop.updates >= 2 and (part.start or len(part.targets) == 128):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    loop.on("after_forward", full)
    trained = weights(loop)
    assert rows[2] == [128, 64, 64, 32, 32, 32, 32]
    assert rows[3:] == [[32] * 4] * 3
    assert loop.reported["dynamic_batch_scheduler"]["ran_out_of_memory"] == {"after": 2}
    assert any("dropout drew other masks" in note for note in loop.notes)

    # Bit for bit what smaller parts from that step on would have been, masks and statistics included.
    other = build()
    other.micro_batch = None
    other.on("batch_start", lambda batch: setattr(other, "micro_batch", 32 if other.step >= 2 else None))
    assert equal(trained, weights(other))


def check_real_exhaustion_of_memory_is_survived():
    loop = make_loop(DynamicBatchScheduler())
    rows = rows_of(loop)
    taken = psutil.Process().memory_info().vms
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + 80 * PER_SAMPLE, hard))
    try:
        trained = weights(loop)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert loop.reported["dynamic_batch_scheduler"]["ran_out_of_memory"]["after"] == 1
    assert rows[1:] == [[64, 64]] * 5
    assert close(trained, weights(make_loop()))


def test_other_errors_are_not_taken_for_it():
    loop = make_loop(DynamicBatchScheduler())

    def fail(part):
        raise RuntimeError("shapes do not fit")

    loop.on("after_forward", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        loop.fit()


def test_a_single_sample_that_does_not_fit_ends_the_run():
    loop = make_loop(DynamicBatchScheduler())

    def full(part):
        raise MemoryError

    loop.on("after_forward", full)
    with pytest.raises(RunFailed, match=r"with a single sample .*gradient_checkpointing"):
        loop.fit()


def check_a_budget_below_one_sample_says_the_least_that_works():
    with pytest.raises(BadInput, match=r"budget 100MiB is below the .*one sample.*write budget: ") as caught:
        make_loop(DynamicBatchScheduler(budget="100MiB"), sizes=(16,) * 8).fit()
    least = parse_bytes(str(caught.value).split("write budget: ")[1].split(",")[0])
    del caught
    make_loop(DynamicBatchScheduler(budget=spoken_bytes(1.05 * least)), sizes=(16,) * 8).fit()


def check_batch_norm_is_named_as_not_the_same():
    with_norm = {"model": lambda: Wide(lambda: nn.BatchNorm1d(4))}
    loop = make_loop(DynamicBatchScheduler(budget=room(50)), **with_norm)
    trained = weights(loop)
    assert any("batch-norm took its statistics from parts" in note for note in loop.notes)
    assert not close(trained, weights(make_loop(**with_norm)))


def check_resume_is_exact(tmp_path):
    budget = room(50)

    def build(folder, stop_at=None):
        loop = make_loop(
            DynamicBatchScheduler(budget=budget),
            model=lambda: Wide(lambda: nn.Dropout(0.3)),
            checkpoints=folder,
            checkpoint_every=2,
        )

        def stop(batch):
            if loop.step == stop_at:
                raise KeyboardInterrupt

        loop.on("batch_start", stop)
        return loop

    folders = [tmp_path / name for name in ("whole", "cut")]
    for folder in folders:
        folder.mkdir()
    expected = weights(build(folders[0]))
    with pytest.raises(KeyboardInterrupt):
        build(folders[1], stop_at=3).fit()
    resumed = build(folders[1])
    rows = rows_of(resumed)
    assert equal(weights(resumed, resume=True), expected)
    assert rows == [[43, 43, 42]] * 4  # no probes again


# The effective batch --------------------------------------------------------------------------------------


def own_loader(samples=130, batch=10):
    inputs = np.random.default_rng(0).standard_normal((samples, 8)).astype(np.float32)
    examples = Examples(inputs, (inputs.sum(1) > 0).astype(np.int64))
    return BatchLoader(examples, TensorEncoder((8,)), batch, ShuffledSampler(samples, seed=0))


def check_the_effective_batch_is_met_whatever_the_loader_has():
    loop = make_loop(DynamicBatchScheduler(effective_batch=40, budget=room(12)), loader=own_loader())
    rows = rows_of(loop)
    assert close(weights(loop), weights(make_loop(loader=own_loader(batch=40))))
    assert [sum(parts) for parts in rows[1:]] == [40, 40, 10]
    assert all(len(parts) == 4 for parts in rows[1:3])


def test_an_effective_batch_that_cannot_be_met_is_refused():
    with pytest.raises(BadInput, match="effective_batch 200 cannot be met: there are 130 samples"):
        make_loop(DynamicBatchScheduler(effective_batch=200), loader=own_loader())
    with pytest.raises(BadInput, match="effective_batch 200 cannot be met: the batches of this loader"):
        make_loop(DynamicBatchScheduler(effective_batch=200))


def test_averaging_that_attaches_first_counts_other_steps():
    plan = make_plan(
        make_recipe("digits", [WeightAveraging(kind="swa"), DynamicBatchScheduler(effective_batch=50)]),
        SITUATION,
    )
    assert list(plan.acting) == ["dynamic_batch_scheduler", "weight_averaging"]
    instructions = [DynamicBatchScheduler(effective_batch=50), WeightAveraging(kind="swa", start=0)]
    counts = []
    for order in (instructions, instructions[::-1]):
        loop = make_loop(*order, loader=own_loader(samples=150), epochs=6)
        loop.fit()
        counts.append(loop.states["weight_averaging"].count)
    assert counts == [6, 1]  # one state an epoch, and one in fifteen steps


def check_blocks_chosen_for_one_micro_batch_do_not_fit_another():
    fixed, moving = GradientCheckpointing(budget="2GiB"), DynamicBatchScheduler()
    with pytest.raises(BadInput, match=r"leave gradient_checkpointing\.budget out"):
        make_plan(make_recipe("stdlib_text", [fixed, moving]), SITUATION)
    make_plan(make_recipe("stdlib_text", [GradientCheckpointing(), moving]), SITUATION)

    class Two(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Sequential(Wide()), nn.Sequential(nn.Linear(2, 8), Wide()))

    budget = parse_bytes(room(70, high=0.97))
    loop = make_loop(GradientCheckpointing(budget=spoken_bytes(budget)), model=Two, sizes=(16, 16, 16, 128))
    chosen = []
    loop.on("batch_start", lambda batch: chosen.append(loop.states["gradient_checkpointing"].chosen))
    most = []
    loop.on("after_forward", lambda part: most.append(memory_in_use(CPU)))
    loop.fit()
    assert chosen[-1] == []
    assert most[2] < budget < most[3]


# Plain functions ------------------------------------------------------------------------------------------


def check_the_largest_batch_is_found_in_three_probes():
    give_back(CPU)
    model, optimizer = Wide(), None
    optimizer = torch.optim.AdamW(model.parameters())
    asked = []

    def step(samples):
        asked.append(samples)
        optimizer.zero_grad()
        model(torch.ones(samples, 8)).sum().backward()
        optimizer.step()

    step(2)
    asked.clear()
    limit = memory_in_use(CPU) + 100 * PER_SAMPLE
    found = largest_batch(step, limit)
    assert len(asked) == 3
    assert max(asked) <= found
    give_back(CPU)
    for samples, fits in ((0.97 * found, True), (1.03 * found, False)):
        reset_peak(CPU)
        step(round(samples))
        assert (recent_peak(CPU) <= limit) == fits
    assert largest_batch(step, limit, most=40) == 40
    with pytest.raises(BadInput, match=r"2 samples do not fit into 10MiB: they take \d+MiB; raise limit"):
        largest_batch(step, 10 * 2**20)


def test_memory_that_runs_out_in_a_probe_is_half_of_an_answer():
    def step(samples):
        if samples > 11:
            raise MemoryError

    assert largest_batch(step, 2**50) <= 11
    with pytest.raises(BadInput, match="do not fit"):
        largest_batch(step, 2**50, start=12)


def test_batches_of_a_token_budget_waste_little():
    lengths = np.random.default_rng(0).integers(1, 100, 500).tolist()
    found = token_budget_batches(lengths, 512)
    assert sorted(row for rows in found for row in rows) == list(range(500))
    sizes = [len(rows) * max(lengths[row] for row in rows) for rows in found]
    assert max(sizes) <= 512
    assert sum(lengths) > 0.95 * sum(sizes)
    with pytest.raises(BadInput, match="row 1 has 9 tokens, more than 8"):
        token_budget_batches([3, 9], 8)


def test_bad_marks_are_refused():
    with pytest.raises(BadInput, match=r"low must be below high \(0\.85\), got 0\.9"):
        DynamicBatchScheduler(low=0.9)
    with pytest.raises(BadInput, match="such as 2GiB"):
        DynamicBatchScheduler(budget="lots")
