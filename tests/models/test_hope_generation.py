"""What Hope models generate: greedy, sampling, beams, streams; with and without cache and padding."""

import subprocess
import sys
from itertools import product

import pytest
import torch
from tiny_models import VOCABULARY, make, some_ids
from transformers.generation.streamers import BaseStreamer

KINDS = {
    "hope": {"mixer_types": ["self_modifying"], "mixer_options": {"self_modifying": {"chunk_size": 4}}},
    "online hybrid": {"continuum_mode": "online", "continuum_inner_rate": 0.3},
    "nested": {
        "mixer_types": ["delta"],
        "mixer_options": {},
        "continuum_mode": "online",
        "continuum_variant": "nested",
    },
}


@pytest.fixture(params=KINDS)
def model(request):
    return make(dtype=torch.float64, std=0.6, tie_word_embeddings=False, **KINDS[request.param])


def continued(model, ids, **options):
    return model.generate(ids, max_new_tokens=7, pad_token_id=0, **options)


def by_hand(model, ids, steps=7):
    for _ in range(steps):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return ids


def test_greedy_with_and_without_cache_is_the_argmax_of_the_whole(model):
    ids = some_ids()
    expected = by_hand(model, ids)
    assert len(set(expected[0, 13:].tolist())) > 2
    assert torch.equal(continued(model, ids, do_sample=False), expected)
    assert torch.equal(continued(model, ids, do_sample=False, use_cache=False), expected)


def test_sampling_with_and_without_cache_is_the_same(model):
    drawn = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        drawn.append(continued(model, some_ids(), do_sample=True, top_k=10, use_cache=use_cache))
    assert torch.equal(*drawn)
    torch.manual_seed(6)
    assert not torch.equal(continued(model, some_ids(), do_sample=True, top_k=10), drawn[0])


def test_beams_with_and_without_cache_are_the_same_and_find_the_best():
    model = make(dtype=torch.float64, std=0.5, continuum_mode="online", continuum_inner_rate=0.3)
    ids = some_ids(rows=2)
    assert torch.equal(
        continued(model, ids, num_beams=4, do_sample=False),
        continued(model, ids, num_beams=4, do_sample=False, use_cache=False),
    )
    endings = torch.tensor(list(product(range(VOCABULARY), repeat=2)))
    whole = torch.cat([ids[:1].expand(len(endings), -1), endings], 1)
    with torch.no_grad():
        scores = model(whole, use_cache=False).logits[:, -3:-1].log_softmax(-1)
    best = endings[scores.gather(2, endings.unsqueeze(-1)).sum((1, 2)).argmax()]
    found = model.generate(ids[:1], max_new_tokens=2, num_beams=VOCABULARY, do_sample=False, pad_token_id=0)
    assert torch.equal(found[0, -2:], best)


def test_left_padding_generates_what_no_padding_does(model):
    ids = some_ids()
    mask = torch.ones_like(ids)
    mask[0, :5], mask[2, :1] = 0, 0
    options = {"attention_mask": mask, "do_sample": False}
    together = continued(model, ids.masked_fill(mask == 0, 0), **options)
    for row, first in enumerate((5, 0, 1)):
        assert torch.equal(together[row, 13:], by_hand(model, ids[row : row + 1, first:])[0, -7:])
    beams = continued(model, ids.masked_fill(mask == 0, 0), num_beams=3, **options)
    assert torch.equal(beams[0, 13:], continued(model, ids[:1, 5:], num_beams=3, do_sample=False)[0, 8:])


def test_a_cache_given_to_generate_goes_on(model):
    ids = some_ids()
    with torch.no_grad():
        cache = model(ids[:, :-1], use_cache=True).past_key_values
    assert torch.equal(continued(model, ids, past_key_values=cache, do_sample=False), by_hand(model, ids))
    assert cache.num_seen == 13 + 6


def test_tokens_stream_one_by_one(model):
    class Kept(BaseStreamer):
        def __init__(self):
            self.pieces, self.ended = [], False

        def put(self, value):
            self.pieces.append(value.flatten())

        def end(self):
            self.ended = True

    kept, ids = Kept(), some_ids(rows=1)
    whole = continued(model, ids, do_sample=False, streamer=kept)
    assert kept.ended
    assert [len(piece) for piece in kept.pieces] == [13] + [1] * 7
    assert torch.equal(torch.cat(kept.pieces), whole[0])


@pytest.mark.slow
def test_a_saved_model_generates_the_same_text_in_another_process(tmp_path):
    model, ids = make(**KINDS["online hybrid"]), some_ids(rows=1)
    model.save_pretrained(tmp_path)
    program = (
        "import nestling, torch\n"
        "from transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})\n"
        f"ids = torch.tensor({ids.tolist()})\n"
        "print(model.generate(ids, max_new_tokens=7, pad_token_id=0, do_sample=False).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(continued(model, ids, do_sample=False).tolist()), done.stderr
