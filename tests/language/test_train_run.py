"""Training: it learns, it goes on bit for bit, and what it leaves can be used by transformers alone."""

import json
import math
from itertools import pairwise

import pytest
import torch
from tiny_training import LEVELS, losses, tiny_recipe, weights, write_text
from transformers import AutoModelForCausalLM, AutoTokenizer

from nestling.errors import CheckpointError, InputError, ResourceError, UnknownNameError
from nestling.recipes.language import Recipe, StepListener, train
from nestling.recipes.language import checkpoints as saving
from nestling.recipes.language.optimizer import build_optimizer, learning_rate
from nestling.recipes.language.recipe import read_recipe

META = {**LEVELS, "continuum_mode": "meta"}
CASES = {
    "hope, adamw": {"options": META},
    "hope, muon": {"optimizer": "muon"},
    "hope, levels with pending gradients": {"levels": {"*.mlps.0.*": 2, "*.mlps.1.*": 4}},
    "hope, gathered rows, bf16, checkpointing": {"micro_batch": 1, "precision": "bf16", "checkpointing": True},
    "samba, m3": {"model": "samba", "options": {}, "optimizer": "m3:update_period=4"},
}


def same(left, right):
    assert left.keys() == right.keys()
    return all(torch.equal(value, right[name]) for name, value in left.items())


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed_is_never_stopped_bit_for_bit(case, tmp_path):
    recipe = tiny_recipe(write_text(tmp_path), **CASES[case])
    whole = train(recipe, tmp_path / "whole", device="cpu")
    paused = train(recipe, tmp_path / "parts", device="cpu", pause_after=3)
    assert (paused.finished, paused.step) == (False, 3)
    torch.manual_seed(99)
    done = train(recipe, tmp_path / "parts", device="cpu", resume=True)
    assert done.finished
    assert same(weights(whole.folder), weights(done.folder))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert len(losses(tmp_path / "parts")) == 6
    assert done.validation_bits == whole.validation_bits


def test_it_learns_and_leaves_a_plain_hugging_face_folder(tmp_path):
    heard = []

    class Ear(StepListener):
        def on_step(self, row, recipe):
            heard.append(row)

    recipe = tiny_recipe(write_text(tmp_path), steps=40, lr=1e-2, evaluate_every=20, save_every=10)
    result = train(recipe, tmp_path / "out", device="cpu", listener=Ear())
    found = losses(tmp_path / "out")
    assert found[0] == pytest.approx(math.log(259), abs=0.3)
    assert found[-1] < 0.7 * found[0]
    assert result.validation_bits == pytest.approx(found[-1] / math.log(2), abs=0.7)
    assert [row["step"] for row in heard] == list(range(1, 41))
    assert {"tokens_per_second", "seconds_left", "lr", "gradient_norm"} <= heard[0].keys()
    assert [p.name for p in sorted((tmp_path / "out/checkpoints").iterdir())] == ["step-00000030", "step-00000040"]
    assert (tmp_path / "out/loss.png").read_bytes().startswith(b"\x89PNG")
    assert read_recipe(tmp_path / "out/recipe.json") == recipe
    assert {path.name for path in result.folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert "training.ckpt" not in {path.name for path in result.folder.iterdir()}
    model, tokenizer = (kind.from_pretrained(result.folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer("100 green bottles", return_tensors="pt").input_ids
    assert model.config.eos_token_id == 257
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
    assert loss < 0.9 * found[0]


def test_a_write_that_is_cut_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    recipe = tiny_recipe(write_text(tmp_path), save_every=2)
    whole = train(recipe, tmp_path / "whole", device="cpu")
    real, calls = saving._publish, []

    def cut(making, place):
        calls.append(place.name)
        if place.name == "step-00000004":
            raise KeyboardInterrupt
        real(making, place)

    monkeypatch.setattr(saving, "_publish", cut)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", device="cpu")
    monkeypatch.undo()
    newest = saving.newest_checkpoint(tmp_path / "cut")
    assert newest is not None
    assert newest.name == "step-00000002"
    assert calls[-1] == "step-00000004"
    assert same(weights(whole.folder), weights(train(recipe, tmp_path / "cut", device="cpu", resume=True).folder))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_damaged_or_foreign_checkpoints_are_named(tmp_path):
    recipe = tiny_recipe(write_text(tmp_path))
    folder = train(recipe, tmp_path / "out", device="cpu", pause_after=1).folder
    content = (folder / "training.ckpt").read_bytes()
    (folder / "training.ckpt").write_bytes(content[:-9])
    with pytest.raises(CheckpointError, match="truncated"):
        train(recipe, tmp_path / "out", device="cpu", resume=True)
    with pytest.raises(InputError, match="not empty"):
        train(recipe, tmp_path / "out", device="cpu")
    with pytest.raises(InputError, match=r"lr was 0\.003"):
        train(tiny_recipe(recipe.data, lr=1e-3), tmp_path / "out", device="cpu", resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    with pytest.raises(InputError, match="holds no training"):
        train(recipe, tmp_path / "other", device="cpu", resume=True)


def test_the_learning_rate_warms_up_and_falls_to_its_share():
    recipe = tiny_recipe("x", steps=100, warmup_share=0.1, min_lr_share=0.2, lr=1.0)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.6)
    assert learning_rate(recipe, 100) == pytest.approx(0.2)
    assert all(late <= early for early, late in pairwise(rates[10:]))


def test_weights_decay_but_norms_rates_and_initial_memories_do_not():
    from nestling import HopeConfig, HopeForCausalLM

    config = HopeConfig(vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, update_periods=[8])
    model = HopeForCausalLM(config)
    optimizer = build_optimizer(tiny_recipe("x", weight_decay=0.3), model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert {"model.embed_tokens.weight", "model.layers.0.mixer.input.weight"} <= decayed
    assert not any("norm" in name or "bias" in name or "memories" in name for name in decayed)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.95)


@pytest.mark.parametrize("name", ["muon", "m3"])
def test_optimizers_of_matrices_take_linear_maps_and_the_memories_of_each_head(name):
    from nestling import HopeConfig, HopeForCausalLM

    sizes = {"vocab_size": 9, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = HopeForCausalLM(HopeConfig(**sizes, update_periods=[8], tie_word_embeddings=False))
    optimizer = build_optimizer(tiny_recipe("x", optimizer=name, weight_decay=0.3), model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    matrices = {names[id(p)] for group in optimizer.param_groups if not group["elementwise"] for p in group["params"]}
    linear = {f"{path}.weight" for path, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    memories = {f"model.layers.0.mixer.memories.initial.{name}" for name in ("key", "value", "memory")}
    assert matrices == linear - {"lm_head.weight"} | memories
    stacked = {names[id(p)] for group in optimizer.param_groups if group["stacked"] for p in group["params"]}
    assert stacked == memories
    decayed = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == linear | {"model.embed_tokens.weight"}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


def test_what_cannot_be_trained_is_refused_in_words(tmp_path):
    data = write_text(tmp_path)
    with pytest.raises(UnknownNameError, match="'tiny'"):
        Recipe(data=data, model="hope", size="tinny", lr=1.0, steps=1, batch_size=1, length=1, micro_batch=1)
    with pytest.raises(InputError, match="micro_batch 2 does not divide"):
        train(tiny_recipe(data, batch_size=3, micro_batch=2), tmp_path / "a", device="cpu")
    with pytest.raises(InputError, match="all rows of a step at once"):
        train(tiny_recipe(data, optimizer="dgd", micro_batch=1), tmp_path / "b", device="cpu")
    with pytest.raises(InputError, match="fits no parameter"):
        train(tiny_recipe(data, levels={"nothing.*": 2}), tmp_path / "c", device="cpu")
    with pytest.raises(InputError, match="lower --lr"):
        train(tiny_recipe(data, optimizer="sgd", lr=1e30, clip=0.0), tmp_path / "d", device="cpu")


def test_tensorboard_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ResourceError, match="nestling\\[train\\]"):
        train(tiny_recipe(write_text(tmp_path)), tmp_path / "out", device="cpu", tensorboard=True)


def test_the_recipe_on_disk_is_whole(tmp_path):
    recipe = tiny_recipe("x", levels={"*": 2}, options={"mixer_options": {"self_modifying": {"momentum": True}}})
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_json()))
    assert read_recipe(tmp_path / "recipe.json") == recipe
