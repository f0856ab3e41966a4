"""Reading while the levels learn to predict the text; float64."""

import pytest
import torch
from tiny_models import VOCABULARY, make, some_ids
from torch.nn import functional as F

from nestling.errors import InputError
from nestling.models.hope import read

READER = {
    "continuum_mode": "online",
    "continuum_objective": "next_token",
    "continuum_inner_rate": 0.5,
    "continuum_limit": None,
}


def near(got, expected, tolerance=1e-9):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def plain_losses(model, ids):
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none")


def by_hand(model, ids):
    """One row; a copy of the model whose own weights take the steps, with plain autograd; one period for all levels."""
    model.load_state_dict({name: weight.clone() for name, weight in model.state_dict().items()})
    period, rate = model.config.update_periods[0], model.config.continuum_inner_rate
    weights = [weight for name, weight in model.named_parameters() if ".mlps." in name]
    cache, losses = None, []
    for first in range(0, ids.shape[1], period):
        chunk = ids[:, first : first + period]
        out = model(chunk, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        labels = ids[:, first + 1 : first + period + 1]
        loss = F.cross_entropy(out.logits[:, : labels.shape[1]].mT, labels, reduction="none")
        losses.append(loss.detach())
        if chunk.shape[1] == period:
            found = torch.autograd.grad(loss[:, : period - 1].sum(), weights)
            with torch.no_grad():
                for weight, gradient in zip(weights, found):
                    weight -= rate * gradient / period
        cache.detach()
    return torch.cat(losses, 1)


@pytest.mark.parametrize("variant", ["sequential", "independent"])
def test_levels_take_gradient_steps_on_the_loss_of_the_text(variant):
    options = {**READER, "continuum_variant": variant, "update_periods": [4, 4]}
    model, ids = make(torch.float64, **options), some_ids(rows=1, length=18)
    found, cache = read(model, ids)
    assert cache.blocks[0][1].moved().item() > 0.01
    near(found, by_hand(make(torch.float64, **options), ids))
    near(read(model, ids, learn=False)[0], plain_losses(model, ids))


@pytest.mark.parametrize("variant", ["sequential", "nested", "independent"])
def test_rows_pieces_and_the_model_itself_are_left_as_they_are(variant):
    model, ids = make(torch.float64, **READER, continuum_variant=variant), some_ids(length=24)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    whole, end = read(model, ids)
    near(whole[1:2], read(model, ids[1:2])[0])
    first, cache = read(model, ids[:, :12])
    second, cache = read(model, ids[:, 12:], cache=cache)
    near(torch.cat([first, second], 1), torch.cat([whole[:, :11], whole[:, 12:]], 1))
    near(list(cache.blocks[-1][1].delta), list(end.blocks[-1][1].delta))
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    changed = ids.clone()
    changed[:, 20] = (changed[:, 20] + 1) % VOCABULARY
    near(read(model, changed)[0][:, :19], whole[:, :19])


def test_what_was_read_helps_with_the_rest_and_goes_on_into_generation():
    """A pattern of seven tokens: reading with learning predicts its later half better than without."""
    model = make(torch.float64, **{**READER, "continuum_inner_rate": 2.0, "continuum_limit": 1.0}, std=0.1)
    ids = some_ids(rows=2, length=7).repeat(1, 30)
    learned, cache = read(model, ids)
    assert learned[:, 105:].mean() < 0.8 * read(model, ids, learn=False)[0][:, 105:].mean()
    again = model.generate(
        torch.cat([ids, ids[:, :1]], 1), past_key_values=cache, max_new_tokens=3, do_sample=False, pad_token_id=0
    )
    assert again.shape == (2, 214)
    assert cache.blocks[0][1].moved().min() > 0


def test_other_objectives_are_read_as_they_are():
    model, ids = make(torch.float64, continuum_mode="online", continuum_inner_rate=0.3), some_ids()
    found, cache = read(model, ids)
    near(found, plain_losses(model, ids))
    assert cache.num_seen == 13
    with pytest.raises(InputError, match="T >= 2"):
        read(model, ids[:, :1])
