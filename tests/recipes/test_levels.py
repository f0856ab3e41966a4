"""Levels worked by hand: an MLP under Adam, a Llama under AdamW, a continuum of periods, memories, and odd models."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, AdamW

import nestling
from nestling.errors import DataError, InputError, ResourceError, UnknownNameError
from nestling.memory import MEMORIES
from nestling.optim import M3, OPTIMIZERS, NestedOptimizer
from nestling.recipes.levels import Component, Frequency, NestedSystem, levels, load_module
from nestling.recipes.levels.load import make_optimizer
from nestling.recipes.levels.system import ordered
from nestling.recipes.levels.texts import headline
from nestling.schedule import Level


def mlp() -> nn.Sequential:
    """4 * 5 + 5 = 25, 5 * 5 + 5 = 30 and 5 * 2 + 2 = 12 parameters."""
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))


def rows(system: NestedSystem) -> list[tuple[int, str, str, int, int | None]]:
    """level, name, frequency, parameters, state."""
    return [(c.level, c.name, str(c.updates), c.num_parameters, c.num_state) for c in system.components]


def by_name(system: NestedSystem) -> dict[str, Component]:
    assert len({c.name for c in system.components}) == len(system.components)
    return {c.name: c for c in system.components}


def test_an_mlp_under_adam_by_hand() -> None:
    model = mlp()
    system = levels(model, Adam(model.parameters(), lr=0.1))
    assert rows(system) == [
        (0, "Adam: step counter", "every step", 0, 6),
        (0, "Adam: first moment m", "every step", 0, 67),
        (0, "Adam: second moment v", "every step", 0, 67),
        (1, "0", "every step", 25, 0),
        (1, "2", "every step", 30, 0),
        (1, "4", "every step", 12, 0),
    ]
    assert (system.num_parameters, system.num_trained, system.num_optimizer_state) == (67, 67, 140)
    layer = by_name(system)["2"]
    assert layer.needs == ("Adam: first moment m", "Adam: second moment v", "Adam: step counter")
    assert (layer.keys, layer.values) == ("layer input x", "local surprise -dL/dy")
    assert headline(system) == "Sequential under Adam: 2 levels, 67 parameters and 140 numbers of optimizer state"


def test_plain_gradient_descent_has_one_level_and_momentum_one_more() -> None:
    model = mlp()
    assert {c.level for c in levels(model, SGD(model.parameters())).components} == {0}
    system = levels(model, SGD(model.parameters(), momentum=0.9))
    assert rows(system)[0] == (0, "SGD: momentum m", "every step", 0, 67)
    assert [c.level for c in system.components] == [0, 1, 1, 1]


def test_without_an_optimizer_no_weight_changes() -> None:
    system = levels(mlp(), name="net")
    assert rows(system) == [(0, "0", "never (0)", 25, 0), (0, "2", "never (0)", 30, 0), (0, "4", "never (0)", 12, 0)]
    assert (system.model, system.optimizer, system.num_trained) == ("net", "none", 0)
    assert system.components[0].rule == "none: no optimizer"


def test_frozen_weights_and_those_outside_the_optimizer_are_slowest() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    system = levels(model, AdamW(model[2].parameters()))
    found = by_name(system)
    assert [found[name].updates.per for name in ("0", "2", "4")] == ["never", "step", "never"]
    assert (found["0"].rule, found["4"].rule) == ("none: frozen", "none: not in the optimizer")
    assert (found["0"].level, found["2"].level, found["4"].level) == (2, 1, 2)
    assert (system.num_trained, system.num_optimizer_state) == (30, 62)


def llama(**changes: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 50, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return transformers.LlamaConfig(**{**sizes, **heads, "tie_word_embeddings": True, **changes})


def test_a_llama_under_adamw_by_hand() -> None:
    config = llama()
    with torch.device("meta"):
        model = pytest.importorskip("transformers").LlamaForCausalLM(config)
    system = levels(model, "adamw")
    # keys and values of 2 heads of width 4 in 3 layers; per layer q, o 256, k, v 128, mlp 3 * 384, two norms 16
    per_layer = 2 * 256 + 2 * 128 + 3 * 384 + 2 * 16
    total = 50 * 16 + 3 * per_layer + 16
    assert (system.num_parameters, system.num_trained) == (total, total)
    assert system.num_optimizer_state == 2 * total + (1 + 3 * 9 + 1)
    found = by_name(system)
    attention = found["model.layers.0-2.self_attn: attention"]
    assert (attention.level, str(attention.updates), attention.count) == (0, "every query (∞)", 3)
    assert (attention.num_state, attention.state_per) == (3 * 2 * 2 * 4, "token")
    assert attention.equations == "NL 62"
    assert [c.level for c in system.components] == [0, 1, 1, 1] + [2] * 11
    assert found["model.layers.0-2.mlp.up_proj"].num_parameters == 3 * 384
    assert found["model.embed_tokens"].keys == "token (one-hot)"
    assert found["model.layers.0-2.input_layernorm"].keys == "normalised input, entry by entry"
    assert sum(c.num_parameters for c in system.components) == total  # the tied head counts once


def test_partly_frozen_layers_stand_in_rows_of_their_own() -> None:
    with torch.device("meta"):
        model = pytest.importorskip("transformers").LlamaForCausalLM(llama(num_hidden_layers=4))
    for index in (0, 2, 3):
        model.model.layers[index].requires_grad_(False)
    found = by_name(levels(model, "sgd"))
    assert found["model.layers.0,2,3.mlp.up_proj"].updates == Frequency(per="never")
    assert found["model.layers.1.mlp.up_proj"].updates == Frequency(per="step")


def continuum(model: nn.Module) -> NestedOptimizer:
    return NestedOptimizer.for_module(
        model,
        {
            "0.*": {"level": Level(name="fast"), "optimizer": AdamW},
            "2.*": {
                "level": Level(name="middle", update_period=4, retention=0.9, anchor="start"),
                "optimizer": SGD,
                "lr": 0.1,
                "momentum": 0.9,
            },
            "4.*": {"level": Level(name="slow", update_period=16), "optimizer": SGD, "lr": 0.1},
        },
    )


CONTINUUM_ROWS = [
    (0, "fast, AdamW: step counter", "every step", 0, 2),
    (0, "fast, AdamW: first moment m", "every step", 0, 25),
    (0, "fast, AdamW: second moment v", "every step", 0, 25),
    (0, "middle, SGD: pending sum G", "every step", 0, 30),
    (0, "slow, SGD: pending sum G", "every step", 0, 12),
    (1, "0", "every step", 25, 0),
    (2, "middle, SGD: momentum m", "every 4 steps", 0, 30),
    (3, "2", "every 4 steps", 30, 0),
    (4, "4", "every 16 steps", 12, 0),
    (5, "middle, SGD: anchor A", "never (0)", 0, 30),
]


def test_a_continuum_of_periods_by_hand() -> None:
    model = mlp()
    system = levels(model, continuum(model))
    assert rows(system) == CONTINUUM_ROWS
    assert system.num_optimizer_state == 2 + 25 + 25 + 30 + 12 + 30 + 30
    rules = {name: component.rule for name, component in by_name(system).items()}
    assert rules["2"] == "W <- A + 0.9 (W - A); W <- W - lr (g or m)"
    assert rules["4"] == "W <- W - lr (g or m)"


def test_an_optimizer_at_work_is_read_and_not_touched() -> None:
    model = mlp()
    optimizer = continuum(model)
    hooked = []
    optimizer.inner["fast"].register_step_post_hook(lambda *_: hooked.append(1))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer.inner["fast"], 1)  # replaces `step` of the instance
    before = str(optimizer.state_dict())
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    assert rows(levels(model, optimizer)) == CONTINUUM_ROWS
    assert hooked == []
    assert all(torch.equal(old, new) for old, new in zip(weights, model.parameters()))
    assert str(optimizer.state_dict()) == before
    for _ in range(5):
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
    assert scheduler.last_epoch == 0
    assert rows(levels(model, optimizer)) == CONTINUUM_ROWS
    assert len(hooked) == 5


@pytest.mark.parametrize("name", [*OPTIMIZERS, "sgd", "adagrad", "rmsprop"])
def test_the_state_that_is_foretold_is_the_state_after_steps(name: str) -> None:
    """Counted on a copy before the first step; then on the optimizer itself, after as many steps as it needs."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3, bias=False))
    optimizer = make_optimizer(name, model)
    foretold = levels(model, optimizer)
    for _ in range(9):
        optimizer.zero_grad()
        model(torch.randn(5, 4, generator=torch.Generator().manual_seed(0))).square().mean().backward()
        optimizer.step()
    seen = levels(model, optimizer)
    assert rows(foretold) == rows(seen)
    counted = sum(
        value.numel() if isinstance(value, torch.Tensor) else isinstance(value, int | float)
        for entries in optimizer.state.values()
        for value in entries.values()
    )
    assert foretold.num_optimizer_state == counted


def test_m3_has_a_slow_momentum_below_the_weights() -> None:
    model = nn.Linear(4, 3, bias=False)
    system = levels(model, M3(model.parameters(), update_period=5))
    assert rows(system)[-3:] == [
        (1, "Linear", "every step", 12, 0),
        (2, "M3: slow momentum m2", "every 5 steps", 0, 12),
        (3, "M3: answer of m2", "every 5 steps", 0, 12),
    ]


def test_recursive_dgd_remembers_inputs_once_per_task() -> None:
    model = nn.Linear(4, 3)
    system = levels(model, make_optimizer("recursive_dgd:form=dense", model))
    found = by_name(system)
    assert (str(found["RecursiveDGD: input memory P"].updates), found["RecursiveDGD: input memory P"].num_state) == (
        "every task",
        25,  # (4 inputs and the constant) squared
    )
    assert found["RecursiveDGD: input memory P"].level > found["Linear"].level
    stepwise = by_name(levels(model, make_optimizer("recursive_dgd:form=dense,mode=step", model)))
    assert str(stepwise["RecursiveDGD: input memory P"].updates) == "every step"


STATES: dict[str, list[tuple[int, str, str, int]]] = {
    # 2 heads of width 4; MLPs of hidden width 16
    "gated_delta": [(0, "memory M", "every token", 2 * 4 * 4)],
    "momentum": [
        (0, "surprise S", "every token", 32),
        (1, "memory M", "every token", 32),
        (2, "anchor A", "every 64 tokens", 32),
    ],
    "huber": [(0, "memory M", "every token", 32), (1, "anchor A", "every 64 tokens", 32)],
    "omega": [(0, "memory M", "every token", 32), (0, "last pairs", "every token", 2 * 2 * 3 * 4)],
    "deep_momentum": [
        (0, "surprise S", "every token", 2 * 2 * 16 * 4),
        (1, "memory M", "every token", 2 * 2 * 16 * 4),
        (2, "anchor A", "every 64 tokens", 2 * 2 * 16 * 4),
    ],
    "attention": [(0, "attention", "every query (∞)", 2 * 8)],
    "sliding_window": [(0, "attention", "every query (∞)", 63 * 2 * 8)],
}


@pytest.mark.parametrize("name", STATES)
def test_states_of_memories_by_hand(name: str) -> None:
    memory = MEMORIES[name](dim=8, num_heads=2)
    system = levels(memory)
    inside = [c for c in system.components if c.kind != "weights"]
    assert sorted(STATES[name]) == sorted((c.level, c.name.split(": ")[1], str(c.updates), c.num_state) for c in inside)
    carried = memory.initial_state(1).state_dict()
    if name not in ("attention", "sliding_window"):
        kept = sum(tensor.numel() for key, tensor in carried.items() if key != "position")
        assert kept == sum(c.num_state or 0 for c in inside)
        start = next(c for c in system.components if c.keys == "start of a context")
        assert (start.name.split(".")[-1], start.equations) == ("initial", "NL 28")
        assert start.num_parameters == sum(p.numel() for n, p in memory.named_parameters() if "initial" in n)


@pytest.mark.parametrize("name", MEMORIES)
def test_every_memory_has_levels_in_a_model(name: str) -> None:
    make = partial(MEMORIES[name], dim=8, num_heads=2)
    model = nn.Sequential(nn.Embedding(9, 8), make(), make())
    system = levels(model, "adamw")
    inside = [c for c in system.components if c.kind in ("memory", "attention")]
    assert all(c.count == 2 for c in inside)
    assert max(c.level for c in inside) < min(c.level for c in system.components if c.kind == "optimizer state")
    assert sum(c.num_parameters for c in system.components) == sum(p.numel() for p in model.parameters())


def test_statistics_and_recurrent_states() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LSTM(4, 5, 2, bidirectional=True), nn.GRUCell(5, 7))
    found = by_name(levels(model, "sgd"))
    assert (found["1: running statistics"].num_state, str(found["1: running statistics"].updates)) == (9, "every step")
    assert found["2: state"].num_state == 2 * 2 * 2 * 5
    assert (found["3: state"].num_state, found["3: state"].state_per) == (7, "sequence")
    assert found["0"].keys == "patch of the input"
    assert str(by_name(levels(model))["1: running statistics"].updates) == "never (0)"


@pytest.mark.parametrize(
    ("family", "place", "pairs"),
    [
        ("bert", "encoder.layer.0-1.attention.self: attention", 2 * 2 * 16),
        ("gpt2", "h.0-1.attn: attention", 2 * 2 * 16),
        ("mamba", "layers.0-1.mixer: state", None),
    ],
)
def test_other_transformers(family: str, place: str, pairs: int | None) -> None:
    transformers = pytest.importorskip("transformers")
    made: dict[str, Callable[[], Any]] = {
        "bert": lambda: transformers.BertConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, vocab_size=9
        ),
        "gpt2": lambda: transformers.GPT2Config(
            n_embd=16, n_layer=2, n_head=2, vocab_size=9, n_positions=8, bos_token_id=0, eos_token_id=0
        ),
        "mamba": lambda: transformers.MambaConfig(hidden_size=16, num_hidden_layers=2, vocab_size=9),
    }
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(made[family]())
    component = by_name(levels(model))[place]
    assert (component.num_state, component.count, component.level) == (pairs, 2, 0)


def component(name: str, per: Any, period: int = 1, needs: tuple[str, ...] = ()) -> Component:
    words = {"keys": "", "values": "", "objective": "", "rule": "", "equations": ""}
    return Component(
        name=name, kind="memory", updates=Frequency(per=per, period=period), needs=needs, **words
    )  # fmt: skip


def test_order_by_hand() -> None:
    made = [
        component("frozen", "never"),
        component("W", "step", needs=("m", "v")),
        component("slow", "step", 4),
        component("m", "step"),
        component("v", "step", needs=("s",)),
        component("s", "step"),
        component("attention", "query"),
        component("chunk", "token", 64),
        component("token", "token"),
        component("task", "task"),
    ]
    expected = ["attention", "token", "chunk", ("m", "s"), "v", "W", "slow", "task", "frozen"]
    found = {c.name: c.level for c in ordered(made)}
    for number, names in enumerate(expected):
        assert all(found[name] == number for name in ([names] if isinstance(names, str) else names))


@given(st.lists(st.tuples(st.sampled_from(["query", "token", "step", "never"]), st.integers(1, 3)), max_size=7))
@settings(max_examples=50)
def test_laws_of_the_order(kinds: list[tuple[Any, int]]) -> None:
    """Faster means a smaller number; a needed state is faster; numbers are 0, 1, 2, ... without a gap."""
    made: list[Component] = []
    for index, (per, period) in enumerate(kinds):
        equal = [c.name for c in made if c.updates == Frequency(per=per, period=period)]
        made.append(component(str(index), per, period, tuple(equal[::2])))
    found = {c.name: c for c in ordered(made)}
    for one in made:
        for other in made:
            if one.updates.order < other.updates.order:
                assert found[one.name].level < found[other.name].level
        assert all(found[need].level < found[one.name].level for need in one.needs)
    assert {c.level for c in found.values()} == set(range(len({c.level for c in found.values()})))


def test_the_result_is_plain_and_the_page_needs_nothing_else(tmp_path: Path) -> None:
    model = mlp()
    system = nestling.levels(model, continuum(model), name="<net> & co")
    page = system.save(tmp_path / "out").read_text()
    content = json.loads((tmp_path / "out" / "levels.json").read_text())
    assert content == system.to_json()
    assert (content["num_levels"], content["num_parameters"]) == (6, 67)
    assert content["components"][7]["updates"] == {"per": "step", "period": 4}
    assert "&lt;net&gt; &amp; co" in page
    assert "<net>" not in page
    assert page.count("<svg") == 1
    assert not re.search(r"<script|src=|href=|url\(|@import", page)
    drawing = page[page.index("<svg") : page.index("</svg>")]
    for number in range(6):
        assert f">level {number}</text>" in drawing
    assert "every 16 steps" in drawing
    assert drawing.count("is part of the update of") == 2
    assert len(re.findall(r"<title>", drawing)) == len(system.components)


def test_text_of_a_drawing_stays_inside_its_box() -> None:
    with torch.device("meta"):
        model = pytest.importorskip("transformers").LlamaForCausalLM(llama(num_hidden_layers=30))
    from nestling.recipes.levels.picture import levels_svg

    drawing = levels_svg(levels(model, "deep_momentum"))
    for group in re.findall(r"<g>.*?</g>", drawing):
        assert all(len(text) <= 33 for text in re.findall(r"<text[^>]*>([^<]*)<", group))


def test_models_from_names() -> None:
    assert sum(p.numel() for p in load_module("digits").parameters()) == 64 * 256 + 256 + 256 * 257 + 2570
    assert type(load_module("robot")).__name__ == "RobotPolicy"
    assert type(load_module("text")).__name__ == "ByteModel"
    assert isinstance(load_module("torch.nn:Identity"), nn.Identity)


def test_models_from_hugging_face_files(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    for place in (tmp_path, tmp_path / "config.json"):
        module = load_module(str(place))
        assert all(parameter.is_meta for parameter in module.parameters())
        assert type(module).__name__ in ("LlamaForCausalLM", "LlamaModel")


def test_models_from_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    place = tmp_path / "models--owner--name"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0123456789")
    llama().save_pretrained(place / "snapshots" / "0123456789")
    assert type(load_module("owner/name")).__name__ in ("LlamaForCausalLM", "LlamaModel")


def test_models_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (tmp_path / "own_models.py").write_text("def number():\n    return 3\ndef broken():\n    return 1 / 0\n")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "empty").mkdir()
    cases: list[tuple[str, type[Exception], str]] = [
        ("digitz", UnknownNameError, "did you mean 'digits'"),
        ("./nowhere", DataError, "does not exist"),
        ("nowhere.json", DataError, "does not exist"),
        ("empty", DataError, "with config.json"),
        ("bad.json", DataError, "not a configuration that transformers knows"),
        ("owner/name", ResourceError, "out of reach: give a folder with its config.json"),
        ("no_such_package:make", InputError, "cannot import 'no_such_package'"),
        ("own_models:numbr", InputError, "has no 'numbr': there are broken, number"),
        ("own_models:number", InputError, "expected a function that makes a torch.nn.Module, got int"),
        ("own_models:broken", InputError, "failed without arguments: ZeroDivisionError"),
    ]
    for model, kind, message in cases:
        with pytest.raises(kind, match=message):
            load_module(model)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ResourceError, match="HF_HUB_OFFLINE is set"):
        load_module("owner/name")


def test_optimizers_from_names() -> None:
    model = mlp()
    optimizer = make_optimizer("sgd:momentum=0.5,nesterov=true", model)
    assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.5, True)
    for text, message in (
        ("muonn", "did you mean 'muon'"),
        ("sgd:momentun=1", "did you mean 'momentum'"),
        ("sgd:momentum", "NAME:option=value"),
        ("sgd:momentum=high", "option momentum: expected float, got 'high'"),
    ):
        with pytest.raises(InputError, match=message):
            make_optimizer(text, model)
    with pytest.raises(InputError, match="no trainable parameters"):
        make_optimizer("adamw", nn.ReLU())


def test_what_has_no_levels_says_so() -> None:
    with pytest.raises(InputError, match="ReLU has no parameters and no memory"):
        levels(nn.ReLU())
    with pytest.raises(InputError, match="trains no parameter of this module"):
        levels(mlp(), SGD(mlp().parameters()))
