"""The compilation of one training: tried out before it, counted while it lasts, undone at its end."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._dynamo.callback import callback_handler
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InductorError
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from fulldeck.errors import CannotAct
from fulldeck.figures import milliseconds
from fulldeck.instructions.training.train_step_compilation.compiled_model import CompiledModel, compile_model
from fulldeck.instructions.training.train_step_compilation.padding import pad_to_multiple
from fulldeck.training.batch import Part, Tensors, call
from fulldeck.training.random_state import random_state, restore_random_state
from fulldeck.training.trial import first_batch

if TYPE_CHECKING:
    from fulldeck.instructions.training.train_step_compilation import TrainStepCompilation
    from fulldeck.training.loop import TrainingLoop

ROUNDS = 5
"""Steps of either kind that are timed."""
WORTH_IT = 0.97
"""Time of a compiled step, as a share of an uncompiled one, above which it is no gain."""
SAME_LOSS = 0.02
"""Relative difference that compiling may make to the loss of one batch; bfloat16 alone makes some."""

_CACHE = "TORCHINDUCTOR_CACHE_DIR"


class Compilation:
    """What is compiled in one training, and what that came to."""

    def __init__(self, instruction: TrainStepCompilation, loop: TrainingLoop) -> None:
        self.instruction = instruction
        self.loop = loop
        self.figures = loop.figures()
        self.enabled = False
        self.compiled: CompiledModel | None = None
        self.seen: Counter[tuple[int, ...]] = Counter()
        self.chosen: list[tuple[int, ...]] = []
        self.failed: set[tuple[int, ...]] = set()
        self.compilations = 0
        self.figures["compilations"] = {"before": 0, "after": 0}
        self.limit: int = torch._dynamo.config.recompile_limit
        self.hooks_skipped: bool = torch._dynamo.config.skip_nnmodule_hook_guards
        self.cache: str | None = os.environ.get(_CACHE)
        if instruction.cache is not None:
            os.environ[_CACHE] = str(Path(instruction.cache).absolute())
        callback_handler.register_end_callback(self.count)

    def follow(self) -> None:
        """The model was changed: compile it as it is now."""
        if self.compiled is not None:
            self.compiled.remove()
            self.compile()

    def compile(self) -> None:
        own = self.instruction
        self.compiled = compile_model(self.loop.model, own.region, mode=own.mode, backend=own.backend)
        # Equal blocks share what was compiled, so a hook of one of them must tell it from the others.
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        # Torch gives up on a function after eight shapes, in silence; here they are counted and known.
        torch._dynamo.config.recompile_limit = max(self.limit, 4 * own.shapes * len(self.compiled.names))

    def off(self) -> Any:
        return nullcontext() if self.compiled is None else self.compiled.off()

    def pad(self, part: Part) -> None:
        assert self.instruction.bucket is not None
        part.inputs, part.targets = pad_to_multiple(
            part.inputs, part.targets, self.instruction.bucket, padding=self.padding
        )

    def pad_compiled(self, part: Part) -> None:
        """Only where padding has been found to change nothing, and saves compilations."""
        if self.enabled:
            self.pad(part)

    @property
    def padding(self) -> int:
        return getattr(self.loop.data.encoder, "padding", 0) if self.loop.data is not None else 0

    def forward(self, part: Part, inner: Callable[[Part], None]) -> None:
        # Where operations are watched one by one, torch's compiler would give a function up for good.
        if not self.enabled or is_in_torch_dispatch_mode() or not self.wanted(part.inputs):
            with self.off():
                inner(part)
            return
        try:
            inner(part)
        except (TorchDynamoException, InductorError) as error:
            shape = _shape(part.inputs)
            if shape not in self.chosen[1:]:
                raise  # the first shape: `compare` says what that means
            # Shapes that are not compiled run as they are, and so does one that cannot be.
            self.chosen.remove(shape)
            self.failed.add(shape)
            self.loop.notes.append(
                f"train_step_compilation: the compiler failed on batches of {' x '.join(map(str, shape))}, which run "
                f"as they are: {_reason(error)}"
            )
            with self.off():
                inner(part)

    def wanted(self, inputs: Tensors) -> bool:
        shape = _shape(inputs)
        if shape in self.failed:
            return False
        if shape in self.chosen:
            return True
        self.seen[shape] += 1
        often = not self.chosen or self.seen[shape] >= self.instruction.compile_after
        if not often or len(self.chosen) >= self.instruction.shapes:
            return False
        self.chosen.append(shape)
        return True

    def count(self, arguments: Any) -> None:
        if arguments.callback_trigger.name == "DYNAMO":
            self.compilations += 1
            self.figures["compilations"] = {"before": 0, "after": self.compilations}

    def try_out(self) -> None:
        """Compute the first batch both ways; refuse, or say what is gained."""
        loop, own = self.loop, self.instruction
        random = random_state()
        batch = first_batch(loop)
        batch.weight = loop.weigh(batch.targets)
        part = loop.split(batch)[0]
        if own.bucket is not None:
            self.check_padding(part.inputs, own.bucket)
            self.pad(part)
        buffers, training = {n: b.clone() for n, b in loop.model.named_buffers()}, loop.model.training
        loop.model.train()
        try:
            self.compare(part)
        finally:
            restore_random_state(random)
            with torch.no_grad():
                for name, buffer in loop.model.named_buffers():
                    buffer.copy_(buffers[name])
            loop.model.zero_grad(set_to_none=True)
            loop.model.train(training)

    def compare(self, part: Part) -> None:
        own = self.instruction
        self.step(part)  # the first one allocates
        eager, uncompiled_loss = self.step(part)
        refusal, first = None, eager
        try:
            self.compile()
            self.enabled = True
            first, compiled_loss = self.step(part)
            refusal = self.other_loss(uncompiled_loss, compiled_loss)
        except (TorchDynamoException, InductorError) as error:
            refusal = f"the compiler failed on this model: {_reason(error)}"
        # A rank that trained on alone as it is would compute other bits than the others.
        if refusals := [one for one in self.loop.ranks.gather(refusal) if one is not None]:
            self.remove()
            raise CannotAct(refusals[0])
        self.figures["compile_seconds"] = {"before": 0.0, "after": max(first - eager, 0.0)}
        if not own.measure:
            return
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(ROUNDS):
            for self.enabled in (False, True):
                times[self.enabled].append(self.step(part)[0])
        # The slowest rank decides, for all of them.
        every = self.loop.ranks.gather((median(times[False]), median(times[True])))
        self.judge(max(eager for eager, _ in every), max(compiled for _, compiled in every), first)

    def judge(self, eager: float, compiled: float, first: float) -> None:
        self.figures["forward_backward_ms"] = {"before": 1000 * eager, "after": 1000 * compiled}
        self.enabled = compiled <= WORTH_IT * eager
        if not self.enabled:
            # What is registered stays: the checkpoint of a run that found it faster goes on as it was.
            self.remove()
            raise CannotAct(
                f"forward and backward of a batch take {milliseconds(1000 * compiled)} compiled and "
                f"{milliseconds(1000 * eager)} as they are; measure: false compiles all the same"
            )
        self.figures["break_even_steps"] = {"before": 0, "after": round(first / (eager - compiled))}

    def other_loss(self, one: float, other: float) -> str | None:
        """What to say if compiling makes another loss."""
        drawing = any(
            isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in self.loop.model.modules()
        )
        if not drawing and abs(one - other) > SAME_LOSS * max(abs(one), 1e-3):
            return f"compiled, the loss of the first batch is {other:.6g} in place of {one:.6g}"
        return None

    @torch.no_grad()
    def check_padding(self, inputs: Tensors, multiple: int) -> None:
        model, training = self.loop.model, self.loop.model.training
        length = next(t.shape[1] for t in (inputs.values() if isinstance(inputs, dict) else [inputs]))
        length -= 1 if (length - 1) % multiple else 2  # so that something is missing
        short = (
            {n: t[:, :length] for n, t in inputs.items()} if isinstance(inputs, dict) else inputs[:, :length]
        )
        model.eval()
        try:
            before = call(model, short)
            after = call(model, pad_to_multiple(short, None, multiple, padding=self.padding)[0])
        except RuntimeError as error:
            raise CannotAct(
                f"the model takes no texts of other lengths, so leave bucket out ({error})"
            ) from error
        finally:
            model.train(training)
        if before.ndim > 2:
            after = after[:, : before.shape[1]]
        if not torch.allclose(before, after, rtol=1e-3, atol=1e-4):
            raise CannotAct("the model looks at padding, and bucket would change what it says; leave it out")

    def step(self, part: Part) -> tuple[float, float]:
        """Seconds and loss of one forward and backward."""
        self.loop.model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        self.loop.forward(part)
        assert part.loss is not None
        torch.autograd.backward(part.loss)
        if self.loop.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - start, part.loss.item()

    def end(self) -> None:
        """Training is over: say so if it was too short, and undo everything."""
        steps = self.figures.get("break_even_steps")
        if self.enabled and steps is not None and steps["after"] > self.loop.step:
            self.loop.notes.append(
                f"train_step_compilation: compiling is won back after {steps['after']:,} steps, and this run had "
                f"{self.loop.step:,}"
            )
        self.remove()

    def remove(self) -> None:
        self.enabled = False
        if self.compiled is not None:
            self.compiled.remove()
            self.compiled = None
        torch._dynamo.config.recompile_limit = self.limit
        torch._dynamo.config.skip_nnmodule_hook_guards = self.hooks_skipped
        if self.instruction.cache is not None:
            os.environ.pop(_CACHE, None)
            if self.cache is not None:
                os.environ[_CACHE] = self.cache
        if self.count in callback_handler.end_callbacks:
            callback_handler.remove_end_callback(self.count)

    def state_dict(self) -> dict[str, Any]:
        return {
            "enabled": self.enabled,
            "chosen": [list(shape) for shape in self.chosen],
            "seen": [[list(shape), count] for shape, count in self.seen.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not state["enabled"]:
            self.remove()
        elif self.compiled is None:
            self.compile()
        self.enabled = state["enabled"]
        self.chosen = [tuple(shape) for shape in state["chosen"]]
        self.seen = Counter({tuple(shape): count for shape, count in state["seen"]})


def _shape(inputs: Tensors) -> tuple[int, ...]:
    return tuple((inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))).shape)


def _reason(error: Exception) -> str:
    return " ".join(str(error).partition("\n\n")[0].split()) or type(error).__name__
