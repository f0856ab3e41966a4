"""The table of language models: equal parameters, and the Samba-like hybrid against its own parts."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from nestling.errors import InputError, UnknownNameError
from nestling.models.samba import SambaConfig, SambaForCausalLM
from nestling.recipes.language import LANGUAGE_MODELS, SIZES
from nestling.recipes.language.fitting import count_parameters
from nestling.recipes.language.models import make_config

BYTES = 259


@pytest.mark.parametrize(
    ("size", "names"),
    [("tiny", LANGUAGE_MODELS), ("small", LANGUAGE_MODELS), ("1.3b", ("hope", "mamba2", "samba", "ttt"))],
)
def test_all_models_of_a_size_have_the_same_number_of_parameters(size, names):
    counts = {name: count_parameters(make_config(name, SIZES[size], vocab_size=BYTES)) for name in (*names, "llama")}
    wanted = counts["llama"]
    assert {name: count for name, count in counts.items() if abs(count - wanted) > 0.02 * wanted} == {}


@pytest.mark.parametrize(("size", "millions"), [("125m", 110), ("340m", 341), ("760m", 730), ("1.3b", 1_300)])
def test_sizes_are_what_their_names_say(size, millions):
    """With the vocabulary of 32,000 that such models have."""
    config = make_config("llama", SIZES[size], vocab_size=32_000)
    assert count_parameters(config) / 1e6 == pytest.approx(millions, rel=0.03)


def test_the_models_are_what_they_are_called():
    kinds = {name: make_config(name, SIZES["tiny"], vocab_size=BYTES) for name in LANGUAGE_MODELS}
    assert kinds["hope"].mixer_types == ["self_modifying"]
    assert kinds["deltanet"].mixer_types == ["delta"]
    assert {kinds[name].model_type for name in ("llama", "mamba2", "samba")} == {"llama", "mamba2", "samba"}
    changed = make_config("hope", SIZES["tiny"], vocab_size=BYTES, options={"update_periods": [16]})
    assert changed.update_periods == [16]
    assert count_parameters(changed) == pytest.approx(count_parameters(kinds["llama"]), rel=0.02)


def test_mamba2_keeps_the_depth_and_state_that_options_name():
    wanted = count_parameters(make_config("llama", SIZES["small"], vocab_size=BYTES))
    shallow = make_config("mamba2", SIZES["small"], vocab_size=BYTES, options={"num_hidden_layers": 10})
    assert shallow.num_hidden_layers == 10
    assert count_parameters(shallow) == pytest.approx(wanted, rel=0.02)
    narrow = make_config("mamba2", SIZES["small"], vocab_size=BYTES, options={"state_size": 16})
    assert narrow.state_size == 16
    assert count_parameters(narrow) == pytest.approx(wanted, rel=0.05)


def test_unknown_models_and_keys_are_named():
    with pytest.raises(UnknownNameError, match="'hope'"):
        make_config("hoppe", SIZES["tiny"], vocab_size=BYTES)
    with pytest.raises(InputError, match="num_hidden_layers"):
        make_config("hope", SIZES["tiny"], vocab_size=BYTES, options={"num_hidden_layer": 3})
    with pytest.raises(InputError, match="larger size"):
        make_config("titans", SIZES["tiny"], vocab_size=BYTES, options={"mixer_options": {"titans": {"hidden": 4096}}})


def small_samba(**options):
    torch.manual_seed(0)
    config = SambaConfig(
        **{
            "vocab_size": 31,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "sliding_window": 5,
            "mamba_d_head": 16,
            "mamba_d_state": 8,
            "mamba_chunk_size": 4,
            "initializer_range": 0.2,
            **options,
        }
    )
    return SambaForCausalLM(config).double().eval()


def some_tokens(length=23):
    return torch.randint(0, 31, (2, length), generator=torch.Generator().manual_seed(1))


def test_samba_reads_in_pieces_as_a_whole_and_its_cache_stays_small():
    model, ids = small_samba(), some_tokens()
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        cache, pieces = None, []
        for piece in (ids[:, :11], *ids[:, 11:].split(1, dim=1)):
            out = model(piece, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            pieces.append(out.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=1e-6)
    assert cache.layers[1].keys.shape[2] == model.config.sliding_window - 1


def test_samba_attends_within_its_window_only():
    model, ids = small_samba(attn_layer_indices=[0, 1, 2]), some_tokens()
    other = ids.clone()
    other[:, 0] = (other[:, 0] + 1) % 31
    with torch.no_grad():
        moved = (model(ids, use_cache=False).logits - model(other, use_cache=False).logits).abs().amax((0, 2)) > 0
    reach = 3 * (model.config.sliding_window - 1) + 1
    assert moved[:reach].all()
    assert not moved[reach:].any()


def test_samba_comes_back_from_a_folder_and_generates_the_same(tmp_path):
    model, ids = small_samba().float(), some_tokens()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), SambaConfig)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(ids, **options), loaded.generate(ids, **options))
    with pytest.raises(InputError, match="sliding_window"):
        small_samba(sliding_window=0)
