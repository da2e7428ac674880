"""Tiny models in the folders that `save_pretrained` writes, made on the spot."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = "the cat dog sat on a mat and ran far away from home good bad fine dull film great"
WORDS = TEXT.split()
SENTENCES = [" ".join(WORDS[(3 * i + j * (1 + i % 5)) % len(WORDS)] for j in range(9)) for i in range(220)]


def bert_tokenizer() -> PreTrainedTokenizerFast:
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=90, special_tokens=marks, show_progress=False)
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), marks, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def gpt_tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>")


SMALL = {
    "bert": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 16,
        "vocab_size": 90,
    },
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 16,
        "vocab_size": 300,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
        "max_position_embeddings": 16,
        "vocab_size": 300,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
}


def write_model(folder: Path, kind: str, *, weights: bool = True) -> Path:
    """A folder with config.json, tokenizer.json and, with `weights`, model.safetensors."""
    config = transformers.AutoConfig.for_model(kind, **SMALL[kind])
    tokenizer = bert_tokenizer() if kind == "bert" else gpt_tokenizer()
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    if weights:
        torch.manual_seed(0)
        auto = transformers.AutoModelForMaskedLM if kind == "bert" else transformers.AutoModelForCausalLM
        auto.from_config(config).save_pretrained(folder)
    return folder
