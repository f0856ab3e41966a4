import importlib.util
from pathlib import Path

import pytest
import torch
from tiny_models import VOCABULARY, make, some_ids
from transformers import Mamba2Config, Mamba2ForCausalLM

FILE = Path(__file__).parents[2] / "benchmarks" / "memory_spans.py"
SPEC = importlib.util.spec_from_file_location("memory_spans_benchmark", FILE)
memory_spans = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(memory_spans)


def test_spans_of_a_new_hope_are_what_it_begins_with():
    model = make(mixer_types=["self_modifying"], mixer_options={"self_modifying": {"chunk_size": 4}})
    for layer in model.model.layers:
        layer.mixer.memories.initial["rates"].data.zero_()
    found = memory_spans.read_hope(model, some_ids(rows=1))
    assert list(found) == ["model.layers.0.mixer", "model.layers.1.mixer"]
    for log_alpha in found.values():
        assert log_alpha.shape == (2, 13)
        assert (1 / (1 - log_alpha.exp().mean(1))).tolist() == pytest.approx([8.0, 8192.0], rel=1e-2)


def test_spans_of_mamba2():
    sizes = {"hidden_size": 16, "num_heads": 4, "head_dim": 8, "n_groups": 1, "state_size": 4, "num_hidden_layers": 2}
    model = Mamba2ForCausalLM(Mamba2Config(vocab_size=VOCABULARY, **sizes)).eval()
    for block in model.backbone.layers:
        torch.nn.init.zeros_(block.mixer.in_proj.weight)
        torch.nn.init.zeros_(block.mixer.A_log)
        torch.nn.init.zeros_(block.mixer.dt_bias)
    found = memory_spans.read_mamba2(model, some_ids(rows=1))
    assert len(found) == 2
    for log_alpha in found.values():
        assert log_alpha.shape == (4, 13)
        assert log_alpha.flatten().tolist() == pytest.approx([-torch.log(torch.tensor(2.0)).item()] * 52)
