"""lm-evaluation-harness runs our models: its own command, offline, on a local file."""

import importlib.util
import json
import math
import os
import subprocess
import sys

import pytest
import torch

from nestling import HopeConfig, HopeForCausalLM
from nestling.errors import DataError, ResourceError
from nestling.recipes.language.tokenizer import byte_tokenizer
from nestling.recipes.suite import Reader
from nestling.recipes.suite.harness import make_self_contained, run_harness

PASSAGES = [("the cat sat on the", " mat"), ("a dog and a", " cat"), ("one two", " three")]
TASK = """task: local_lambada
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
output_type: loglikelihood
test_split: test
doc_to_text: "{{{{context}}}}"
doc_to_target: "{{{{word}}}}"
target_delimiter: ""
metric_list:
  - metric: perplexity
    aggregation: perplexity
    higher_is_better: false
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="the extra lm-eval is not installed"
)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    config = HopeConfig(
        vocab_size=259,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        update_periods=[4, 8],
        mixer_types=["gated_delta"],
        initializer_range=0.3,
    )
    HopeForCausalLM(config).save_pretrained(tmp_path / "tiny")
    byte_tokenizer().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@needs_harness
@pytest.mark.slow
@pytest.mark.parametrize("way", ["nestling", "plain"])
def test_the_command_scores_as_our_reader_does(way, checkpoint, tmp_path):
    rows = [json.dumps({"context": context, "word": word}) for context, word in PASSAGES]
    (tmp_path / "passages.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "local.yaml").write_text(TASK.format(file=tmp_path / "passages.jsonl"))
    program = [sys.executable, "-m", "nestling", "lm-eval"]
    arguments = f"pretrained={checkpoint},dtype=float32"
    if way == "plain":
        make_self_contained(checkpoint)
        program, arguments = [sys.executable, "-m", "lm_eval"], arguments + ",trust_remote_code=True"
    command = [*program, "run", "--model", "hf", "--model_args", arguments, "--tasks", "local_lambada"]
    command += [
        "--include_path",
        str(tmp_path / "tasks"),
        "--output_path",
        str(tmp_path / "out"),
        "--batch_size",
        "2",
        "--device",
        "cpu",
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **offline}, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = (tmp_path / "out").rglob("results_*.json")
    scores = json.loads(found.read_text())["results"]["local_lambada"]
    reader = Reader(HopeForCausalLM.from_pretrained(checkpoint), byte_tokenizer())
    ours = [reader.log_likelihood(context, word) for context, word in PASSAGES]
    assert scores["perplexity,none"] == pytest.approx(math.exp(-sum(value for value, _ in ours) / 3), rel=1e-4)
    assert scores["acc,none"] == pytest.approx(sum(greedy for _, greedy in ours) / 3)


def test_a_self_contained_checkpoint_loads_in_a_program_without_nestling(checkpoint):
    make_self_contained(checkpoint)
    program = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer;"
        f"m = AutoModelForCausalLM.from_pretrained({str(checkpoint)!r}, trust_remote_code=True);"
        f"t = AutoTokenizer.from_pretrained({str(checkpoint)!r}, trust_remote_code=True);"
        "print(type(m).__name__, t.encode('ab', add_special_tokens=False))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split(maxsplit=1) == ["HopeForCausalLM", "[97, 98]\n"]
    again = HopeForCausalLM.from_pretrained(checkpoint)
    assert again.config.vocab_size == 259


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"config\.json"):
        make_self_contained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(DataError, match="llama"):
        make_self_contained(tmp_path)
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    with pytest.raises(ResourceError, match="lm-eval"):
        run_harness(["--help"])
