"""Tiny random language models of several kinds, and a tokenizer over bytes, without any download."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    Mamba2Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from nestling import HopeConfig

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]


def tokenizer(template: bool = True) -> PreTrainedTokenizerFast:
    """One token a byte, written as GPT-2 writes bytes, so that a space begins a word."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>")
    made.add_special_tokens({"additional_special_tokens": _SPECIAL[1:]})
    if template:
        made.chat_template = TEMPLATE
    return made


def config(kind: str):
    vocabulary = len(tokenizer())
    sizes = {"hidden_size": 32, "num_hidden_layers": 5, "vocab_size": vocabulary}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    ends = {"eos_token_id": 256, "pad_token_id": 256, "bos_token_id": 256}
    if kind == "llama":
        return LlamaConfig(**sizes, **heads, **ends, initializer_range=0.3)
    if kind == "qwen2":
        return Qwen2Config(**sizes, **heads, **ends, initializer_range=0.3)
    if kind == "gpt2":
        return GPT2Config(n_embd=32, n_layer=5, n_head=4, vocab_size=vocabulary, initializer_range=0.3, **ends)
    if kind == "mamba2":
        return Mamba2Config(
            **sizes, **ends, num_heads=8, head_dim=8, state_size=8, n_groups=1, expand=2, initializer_range=0.3
        )
    if kind == "hope":
        return HopeConfig(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=32,
            vocab_size=vocabulary,
            update_periods=[4, 8],
            initializer_range=0.3,
            **ends,
        )
    raise ValueError(kind)


def language_model(kind: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config(kind)).to(dtype).eval()
