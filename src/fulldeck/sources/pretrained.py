"""Models of the transformers library: from a folder, or by name from the Hugging Face hub.

Only configuration, safetensors and tokenizer are read: no pickle, and no code that comes with a model.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fulldeck.errors import BadInput, extra
from fulldeck.sources.column_file import existing

AUTO = {
    "classification": "AutoModelForSequenceClassification",
    "causal_lm": "AutoModelForCausalLM",
    "masked_lm": "AutoModelForMaskedLM",
}
"""Task to the class of transformers that builds a model for it."""
REACH_SECONDS = 5
"""How long the hub may take to say that it is there."""


@dataclass(frozen=True)
class Pretrained:
    """A model that can be built: what transformers calls its config, and the JSON of its tokenizer.

    `weights` is None where it has none and starts from random ones. `padding` and `mask` are ids.
    """

    place: str
    config: Any
    tokenizer: str
    padding: int
    mask: int | None
    weights: str | None

    def build(self, task: str, classes: tuple[str, ...] = ()) -> nn.Module:
        """N x T ids to logits: N x classes, or N x T x vocabulary. Layers that the weights lack are random.

        Raises BadInput if transformers has no such model for the task.
        """
        config = copy.deepcopy(self.config)
        config.use_cache = False
        if task == "classification":
            config.num_labels = len(classes)
            config.id2label = dict(enumerate(classes))
            config.label2id = {name: place for place, name in enumerate(classes)}
            config.pad_token_id = self.padding
        auto = getattr(_transformers(), AUTO[task])
        with _reading(self.place):
            if self.weights is None:
                model = auto.from_config(config, trust_remote_code=False)
            else:
                model = auto.from_pretrained(
                    self.place,
                    config=config,
                    use_safetensors=True,
                    trust_remote_code=False,
                    ignore_mismatched_sizes=task == "classification",
                    dtype=torch.float32,
                )
        # What follows the last token cannot change what a causal model says before it.
        return Logits(model.float(), None if task == "causal_lm" else self.padding)


class Logits(nn.Module):
    """A model of transformers that takes ids alone and gives logits alone; it does not look at `padding`."""

    def __init__(self, model: nn.Module, padding: int | None) -> None:
        super().__init__()
        self.model = model
        self.padding = padding

    def forward(self, input: Tensor) -> Tensor:
        """Logits for N x T ids."""
        mask = None if self.padding is None else (input != self.padding).long()
        logits: Tensor = self.model(input_ids=input, attention_mask=mask).logits
        return logits


def open_pretrained(model: str, notes: list[str]) -> Pretrained:
    """Read configuration and tokenizer of a folder or a hub's model; `notes` say where weights are random.

    Raises BadInput if there is none, if the hub cannot be reached, or for weights that are pickles only.
    """
    transformers = _transformers()
    weights = _local_weights(Path(model), notes) if _is_local(model) else _reach(model)
    with _reading(model):
        config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=False)
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise BadInput(
            f"the tokenizer of {model} is not in the form of the tokenizers library (tokenizer.json)"
        )
    size = getattr(config, "vocab_size", None)
    if size is not None and backend.get_vocab_size() > size:
        raise BadInput(
            f"the tokenizer of {model} has {backend.get_vocab_size():,} tokens, its model {size:,}"
        )
    padding = next((one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id) if one is not None), 0)
    return Pretrained(model, config, backend.to_str(), padding, tokenizer.mask_token_id, weights)


@contextlib.contextmanager
def local_data(data: str) -> Iterator[str]:
    """`data` itself if it exists, else the hub's data set of that name, as files in a temporary folder.

    Raises BadInput if it is neither, if the library `datasets` is not installed, or without network.
    """
    if _is_local(data) or Path(data).suffix:
        existing(data)
        yield data
        return
    try:
        import datasets  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError:
        raise BadInput(
            f"{data} is no file or folder here; name a CSV, parquet or text file, or for the Hugging Face "
            "hub's data set of that name: pip install datasets"
        ) from None
    _reach(data, "dataset")
    with tempfile.TemporaryDirectory() as folder:
        with _reading(data):
            for split, rows in datasets.load_dataset(data).items():
                rows.to_parquet(str(Path(folder) / f"{split}.parquet"))
        yield folder


def _is_local(name: str) -> bool:
    return Path(name).exists() or name.startswith((".", "/", "~"))


def _local_weights(folder: Path, notes: list[str]) -> str | None:
    existing(str(folder))
    if not (folder / "config.json").is_file():
        raise BadInput(
            f"{folder} has no config.json; a model's folder holds config.json, model.safetensors and tokenizer.json"
        )
    if any(folder.glob("*.safetensors")):
        return "safetensors"
    if pickled := sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt")):
        raise BadInput(
            f"{pickled[0]} is a pickle, which is never read; save the model with save_pretrained, which "
            "writes model.safetensors"
        )
    notes.append(f"{folder} has no .safetensors file: the model starts from RANDOM weights")
    return None


def _reach(name: str, kind: str = "model") -> str:
    """Make sure that the hub's `name` is in the cache or can be fetched, without minutes of retries."""
    hub = extra("huggingface_hub", "huggingface")
    remedy = "name a local folder with config.json, model.safetensors and tokenizer.json: model: ./folder"
    if kind == "dataset":
        remedy = "name a local CSV, parquet or text file: data: ./file.csv"
    try:
        if kind == "model" and hub.try_to_load_from_cache(name, "config.json") is not None:
            return "safetensors"
    except hub.errors.HFValidationError:
        raise BadInput(f'"{name}" is no folder here, and no name of the Hugging Face hub; {remedy}') from None
    said = f'"{name}" is no folder here, and the Hugging Face hub '
    if hub.is_offline_mode():
        raise BadInput(f"{said}is switched off (HF_HUB_OFFLINE); {remedy}")
    try:
        hub.HfApi().repo_info(name, repo_type=kind, timeout=REACH_SECONDS)
    except hub.errors.RepositoryNotFoundError:
        raise BadInput(f"{said}has no such {kind} (or a private one); {remedy}") from None
    except Exception as error:  # its HTTP library's errors have no common base class but Exception
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise BadInput(f"{said}cannot be reached ({reason}); {remedy}") from None
    return "safetensors"


@contextlib.contextmanager
def _reading(place: str) -> Iterator[None]:
    """Say in one line what the library cannot read, and keep its reports and progress off the console."""
    logging = _transformers().utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(":. ") or type(error).__name__
        raise BadInput(f"transformers cannot read {place}: {reason}") from error
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def _transformers() -> Any:
    return extra("transformers", "huggingface")
