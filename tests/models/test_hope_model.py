"""Hope as a Hugging Face model: every mixer, cache, padding, packing, saving, errors."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import VOCABULARY, configured, make, some_ids
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DataCollatorWithFlattening

import nestling
from nestling.errors import InputError, ShapeError, UnknownNameError
from nestling.layers import MIXERS
from nestling.models.hope import HopeCache, HopeConfig, HopeForCausalLM, HopeModel, mixer_defaults
from nestling.models.hope.contexts import context_starts
from nestling.schedule import Level

ONLINE = {"continuum_mode": "online", "continuum_inner_rate": 0.3}


def near(got, expected, tolerance=1e-5):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def logits_of(model, ids, **options):
    with torch.no_grad():
        return model(ids, **options).logits


def test_a_model_is_embedding_blocks_norm_and_tied_head():
    model, ids = make(), some_ids()
    hidden = model.model.embed_tokens(ids)
    for block in model.model.layers:
        hidden = hidden + block.mixer(block.mixer_norm(hidden))[0]
        hidden = hidden + block.continuum(block.continuum_norm(hidden))[0]
    hidden = model.model.norm(hidden)
    expected = hidden @ model.model.embed_tokens.weight.T
    out = model(ids, labels=ids, output_hidden_states=True)
    near(out.logits, expected)
    near(out.loss, F.cross_entropy(expected[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))
    near(out.hidden_states[-1], hidden)
    assert len(out.hidden_states) == 3
    near(model(ids, logits_to_keep=2).logits, expected[:, -2:])
    near(model(inputs_embeds=model.model.embed_tokens(ids)).logits, expected)
    assert model(ids, return_dict=False)[0].shape == expected.shape


@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_with_a_cache_is_the_whole_in_every_row(name):
    model, ids = make(mixer_types=[name], mixer_options={}, dtype=torch.float64, **ONLINE), some_ids()
    whole, cache, pieces = logits_of(model, ids), None, []
    for first, last in ((0, 5), (5, 6), (6, 13)):
        with torch.no_grad():
            out = model(ids[:, first:last], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        pieces.append(out.logits)
    near(torch.cat(pieces, 1), whole, 1e-9)
    assert (cache.num_seen, cache.batch_size) == (13, 3)


@pytest.mark.parametrize("name", MIXERS)
def test_left_padding_changes_nothing_with_any_mixer(name):
    model, ids = make(mixer_types=[name], mixer_options={}, dtype=torch.float64, **ONLINE), some_ids(rows=2)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    padded = logits_of(model, ids.masked_fill(mask == 0, 0), attention_mask=mask)
    near(padded[0, 4:], logits_of(model, ids[:1, 4:])[0], 1e-9)
    near(padded[1], logits_of(model, ids[1:])[0], 1e-9)


def test_packed_documents_do_not_see_each_other():
    model, ids = make(dtype=torch.float64, **ONLINE), some_ids(rows=1)
    places = torch.cat([torch.arange(6), torch.arange(3), torch.arange(4)]).unsqueeze(0)
    packed = logits_of(model, ids, position_ids=places)
    for first, last in ((0, 6), (6, 9), (9, 13)):
        near(packed[:, first:last], logits_of(model, ids[:, first:last]), 1e-9)
    with torch.no_grad():
        cache = model(ids[:, :4], use_cache=True).past_key_values
        out = model(ids[:, 4:], past_key_values=cache, position_ids=places[:, 4:])
    near(out.logits[:, 2:], packed[:, 6:], 1e-9)


def test_the_collator_that_flattens_gives_every_document_its_own_loss():
    model, ids = make(dtype=torch.float64, **ONLINE), some_ids(rows=1)[0].tolist()
    documents = [ids[:6], ids[6:9], ids[9:]]
    batch = DataCollatorWithFlattening(return_tensors="pt")([{"input_ids": document} for document in documents])
    alone = [model(torch.tensor([document]), labels=torch.tensor([document])).loss for document in documents]
    expected = sum(loss * (len(document) - 1) for loss, document in zip(alone, documents)) / (13 - 3)
    near(model(**batch).loss, expected, 1e-9)


def test_contexts_begin_where_the_text_does():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    found = context_starts(mask, places, batch=3, length=4, seen=0)
    assert [(place, rows.tolist()) for place, rows in found] == [(1, [False, False, True]), (2, [True, False, False])]
    later = context_starts(mask, None, batch=3, length=2, seen=2)
    assert [(place, rows.tolist()) for place, rows in later] == [(0, [True, False, False])]
    assert context_starts(None, torch.tensor([[3, 4]]), batch=3, length=2, seen=3) == []


def test_right_padding_is_harmless_until_the_text_should_go_on():
    model, ids = make(), some_ids(rows=2)
    mask = torch.ones_like(ids)
    mask[0, 9:] = 0
    with torch.no_grad():
        out = model(ids, attention_mask=mask, use_cache=True)
    near(out.logits[0, :9], logits_of(model, ids[:1, :9])[0])
    with pytest.raises(InputError, match="pad on the left"):
        model(ids[:, :1], past_key_values=out.past_key_values)
    grown = torch.cat([mask, torch.ones(2, 1, dtype=mask.dtype)], 1)
    with pytest.raises(InputError, match="left"):
        model(ids[:, :1], past_key_values=out.past_key_values, attention_mask=grown)


def test_the_cache_does_not_grow_and_its_rows_can_be_chosen():
    model, ids = make(**ONLINE), some_ids(length=30)
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
        size = cache.num_bytes()
        order = torch.tensor([2, 0, 0])
        cache.reorder_cache(order)
        expected = logits_of(model, torch.cat([ids[order], ids[:, :3]], 1))[:, -3:]
        near(model(ids[:, :3], past_key_values=cache).logits, expected)
        assert cache.num_bytes() == size
        cache.batch_select_indices(torch.tensor([1]))
        cache.batch_repeat_interleave(2)
    assert cache.batch_size == 2
    assert "num_seen=33" in repr(cache)
    assert (cache.get_seq_length(), cache.get_max_length(), len(cache), cache.is_compileable) == (33, -1, 2, False)
    with pytest.raises(InputError, match="deepcopy"):
        cache.crop(-1)
    cache.reset()
    near(model(ids, past_key_values=cache).logits, logits_of(model, ids))


@pytest.mark.parametrize("mode", ["static", "meta"])
def test_a_saved_model_is_the_model(tmp_path, mode):
    model, ids = make(continuum_mode=mode, tie_word_embeddings=mode == "static"), some_ids()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is HopeForCausalLM
    assert torch.equal(logits_of(loaded.eval(), ids), logits_of(model, ids))
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) == (mode == "meta")
    tied = loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert tied == (mode == "static")
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is HopeModel
    near(base.eval()(ids).last_hidden_state @ loaded.lm_head.weight.T, logits_of(model, ids))
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


def test_a_static_checkpoint_can_be_read_with_levels_that_move(tmp_path):
    model, ids = make(), some_ids()
    model.save_pretrained(tmp_path)
    for rate, same in ((0.0, True), (5.0, False)):
        moving = AutoModelForCausalLM.from_pretrained(tmp_path, continuum_mode="online", continuum_inner_rate=rate)
        assert moving.config.continuum_mode == "online"
        y, still = logits_of(moving.eval(), ids), logits_of(model, ids)
        assert torch.equal(y, still) == same
        assert torch.equal(y[:, :4], still[:, :4])


def test_missing_weights_begin_as_in_a_new_model(tmp_path):
    model = make(mixer_types=["gated_delta"])
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mixer.project.rate_bias"
    with torch.no_grad():
        weights["model.layers.1.mixer.project.rate_bias"] += 1
    lost = weights.pop(name)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert torch.equal(loaded[name], lost)
    assert torch.equal(loaded["model.layers.1.mixer.project.rate_bias"], lost + 1)


@pytest.mark.parametrize(
    ("given", "decay_to", "fastest"),
    [({}, "initial", 8.0), ({"span": 50.0}, "initial", 50.0), ({"decay_to": "zero", "span": 90.0}, "zero", 90.0)],
)
def test_matrix_memories_of_hope_decay_to_their_start_unless_asked(given, decay_to, fastest):
    layer = make(mixer_types=["self_modifying"], mixer_options={"self_modifying": given}).model.layers[0].mixer
    assert layer.how.decay_to == decay_to
    near(1 / torch.sigmoid(-layer.rate_bias[0, 1]), torch.tensor(fastest), 1e-2)
    mlp = make(mixer_types=["self_modifying"], mixer_options={"self_modifying": {"kind": "mlp"}})
    assert mlp.model.layers[0].mixer.how.decay_to == "zero"
    assert logits_of(mlp, some_ids()).isfinite().all()


def test_a_saved_configuration_does_not_change_with_the_defaults(tmp_path, monkeypatch):
    given = {"self_modifying": {"span": 50.0}}
    configured(mixer_types=["self_modifying"], mixer_options=given).save_pretrained(tmp_path)
    assert given == {"self_modifying": {"span": 50.0}}
    monkeypatch.setitem(mixer_defaults.FORGETTING, "gate", 0.9)
    loaded = HopeConfig.from_pretrained(tmp_path).mixer_options["self_modifying"]
    assert (loaded["span"], loaded["gate"], loaded["output"]) == (50.0, 0.1, "gated")
    assert configured(mixer_types=["self_modifying"]).mixer_options["self_modifying"]["gate"] == 0.9


def test_the_rule_as_printed_begins_in_hope_as_it_begins_in_the_layer():
    given = {"decay_to": "zero"}
    inside = make(mixer_types=["self_modifying"], mixer_options={"self_modifying": given}).model.layers[0].mixer
    alone = MIXERS["self_modifying"](dim=16, num_heads=2, **given)
    near(inside.rate_bias, alone.rate_bias)


def test_a_new_model_of_a_seed_is_always_the_same():
    first, second = make(seed=3).state_dict(), make(seed=3).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], make(seed=4).state_dict()["lm_head.weight"])


def test_autoconfig_knows_hope_after_import_nestling_alone(tmp_path):
    """In a fresh interpreter, where importing nestling loads neither torch nor transformers."""
    configured().save_pretrained(tmp_path)
    program = (
        "import sys, nestling\n"
        "assert not any(name in sys.modules for name in ('torch', 'transformers'))\n"
        f"from transformers import AutoConfig\nprint(type(AutoConfig.from_pretrained({str(tmp_path)!r})).__name__)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("HopeConfig", "")


@pytest.mark.slow
def test_tables_that_are_loaded_already_learn_of_hope_at_once():
    program = (
        "from transformers.models.auto.modeling_auto import AutoModelForCausalLM\nimport nestling\n"
        "sizes = dict(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, vocab_size=4)\n"
        "print(type(AutoModelForCausalLM.from_config(nestling.HopeConfig(**sizes))).__name__)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("HopeForCausalLM", "")


@pytest.mark.slow
@pytest.mark.parametrize("first", ["LlamaForCausalLM", "BambaForCausalLM"])
def test_models_become_known_whatever_transformers_loads_first(first):
    program = (
        f"import nestling\nfrom transformers import {first}, AutoModelForCausalLM\n"
        "sizes = dict(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, vocab_size=4)\n"
        "print(type(AutoModelForCausalLM.from_config(nestling.HopeConfig(**sizes))).__name__)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("HopeForCausalLM", "")


def test_without_transformers_the_names_say_what_to_install():
    program = (
        "import sys\nsys.modules['transformers'] = None\nimport nestling\n"
        "try:\n    nestling.HopeConfig\nexcept nestling.errors.ResourceError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'nestling[text]'" in done.stdout, done.stderr


def test_configuration_is_saved_checked_and_spells_names(tmp_path):
    config = configured(continuum_retention=0.5, update_periods=[2, 6], continuum_variant="nested")
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["update_periods"] == [2, 6]
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is HopeConfig is nestling.HopeConfig
    saved = {**config.to_dict(), "transformers_version": again.transformers_version}
    assert {**again.to_dict(), "_name_or_path": ""} == saved
    levels = again.levels
    assert levels[1] == Level(name="level 1", update_period=6, accumulation="mean", retention=0.5, anchor="start")
    assert HopeConfig().intermediate_size == 2048
    assert [HopeConfig(mixer_types=["delta", "attention"]).mixer_type(i) for i in range(3)] == [
        "delta",
        "attention",
        "delta",
    ]


WRONG = [
    ({"mixer_types": ["gated_dleta"]}, UnknownNameError, "gated_delta"),
    ({"mixer_types": []}, InputError, "mixer_types"),
    ({"num_hidden_layer": 2}, InputError, "num_hidden_layers"),
    ({"hidden_size": 15}, InputError, "multiple"),
    ({"vocab_size": 0}, InputError, "vocab_size"),
    ({"intermediate_size": 33}, InputError, "multiple of the 2 levels"),
    ({"hidden_act": "sillu"}, UnknownNameError, "silu"),
    ({"update_periods": [2, 3], "continuum_variant": "nested"}, InputError, "multiple of the one before"),
    ({"continuum_mode": "onlin"}, UnknownNameError, "online"),
    ({"continuum_objective": "next"}, UnknownNameError, "next_token"),
    ({"continuum_objective": "next_token", "continuum_mode": "meta"}, InputError, "online"),
    ({"continuum_accumulation": "max"}, InputError, "accumulation"),
]


@pytest.mark.parametrize(("options", "kind", "said"), WRONG)
def test_wrong_configurations_say_what_to_do(options, kind, said):
    with pytest.raises(kind, match=said):
        configured(**options)


def test_wrong_inputs_say_what_to_do():
    model, ids = make(), some_ids()
    with pytest.raises(InputError, match="either"):
        model()
    with pytest.raises(InputError, match="HopeCache"):
        model(ids, past_key_values=[])
    with pytest.raises(ShapeError, match="attention_mask"):
        model(ids, attention_mask=torch.ones(3, 5))
    cache = HopeCache()
    model(ids, past_key_values=cache)
    with pytest.raises(ShapeError, match="rows"):
        model(ids[:2], past_key_values=cache)
    assert int(logits_of(model, ids).shape[-1]) == VOCABULARY
