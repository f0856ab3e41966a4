"""Small models for the tests of this folder."""

import torch

from nestling import HopeConfig, HopeForCausalLM

VOCABULARY = 23


def configured(**options):
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "update_periods": [4, 8],
        "mixer_types": ["gated_delta", "sliding_window"],
        "mixer_options": {"sliding_window": {"window": 5}, "gated_delta": {"chunk_size": 4}},
    }
    return HopeConfig(**{**sizes, **options})


def make(dtype=torch.float32, seed=0, std=0.2, **options):
    """Larger weights than usual, so that a wrong state would show in what is generated."""
    torch.manual_seed(seed)
    return HopeForCausalLM(configured(initializer_range=std, **options)).to(dtype).eval()


def some_ids(rows=3, length=13, seed=1):
    return torch.randint(1, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
