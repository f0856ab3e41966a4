"""Training Hope models: gradients of everything, checkpointing, bfloat16, Trainer, and a text that is learned."""

import math

import pytest
import torch
from tiny_models import configured, make, some_ids
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from nestling.layers import MIXERS
from nestling.models.hope import HopeForCausalLM

TEXT = b"the cat sat on the mat and the rat sat on the hat. "


def gradients(model, ids):
    model.zero_grad()
    model(ids, labels=ids, use_cache=False).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", MIXERS)
def test_every_parameter_has_a_gradient(name):
    """Levels that move and initial states of all memories included."""
    model = make(mixer_types=[name], mixer_options={}, continuum_mode="meta", std=0.5, tie_word_embeddings=False)
    found = gradients(model, some_ids(length=24))
    assert [key for key, gradient in found.items() if gradient.numel() and not gradient.abs().max() > 0] == []
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert any("log_gain" in key for key in found)


@pytest.mark.parametrize("name", MIXERS)
def test_gradient_checkpointing_gives_the_same_gradients(name):
    model = make(dtype=torch.float64, mixer_types=[name], mixer_options={}, continuum_mode="meta").train()
    ids = some_ids()
    expected = gradients(model, ids)
    model.activation_checkpointing_enable()
    assert model.is_activation_checkpointing
    torch.testing.assert_close(gradients(model, ids), expected, rtol=1e-12, atol=1e-12)


def test_truncated_backpropagation_over_a_cache():
    model, ids = make(dtype=torch.float64, continuum_mode="meta"), some_ids()
    cache = model(ids[:, :8], use_cache=True).past_key_values
    assert cache.blocks[0][1].delta[0].requires_grad
    cache.detach()
    out = model(ids[:, 8:], past_key_values=cache, labels=ids[:, 8:])
    out.loss.backward()
    assert model.model.embed_tokens.weight.grad.abs().max() > 0


@pytest.mark.parametrize("mode", ["static", "online", "meta"])
def test_bfloat16_is_near_float32(mode):
    model, ids = make(continuum_mode=mode, std=0.1), some_ids()
    exact = model(ids).logits
    half = model.bfloat16()
    out = half(ids, labels=ids, use_cache=True)
    assert out.logits.dtype == torch.bfloat16
    assert ((out.logits.float() - exact).norm() / exact.norm()).item() < 0.05
    out.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in half.parameters() if parameter.numel())
    with torch.no_grad():
        assert half.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0).shape == (3, 16)


def test_autocast_is_near_float32():
    model, ids = make(continuum_mode="meta", std=0.1), some_ids()
    exact = model(ids).logits
    with torch.autocast("cpu", torch.bfloat16):
        out = model(ids, labels=ids)
    assert ((out.logits.float() - exact).norm() / exact.norm()).item() < 0.05
    out.loss.backward()


def windows(length, count, seed):
    data = torch.tensor(list(TEXT * 40))
    starts = torch.randint(0, len(data) - length, (count,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([data[start : start + length] for start in starts.tolist()])


def unigram_loss():
    shares = torch.bincount(torch.tensor(list(TEXT))).double() / len(TEXT)
    return -(shares[shares > 0] * shares[shares > 0].log()).sum().item()


def learned_loss(**options):
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = HopeForCausalLM(configured(**{**sizes, "mixer_options": {}, "mixer_types": ["self_modifying"], **options}))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)
    for step in range(50):
        ids = windows(48, 8, seed=step)
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        unseen = windows(48, 16, seed=10_000)
        return model(unseen, labels=unseen).loss.item()


@pytest.mark.parametrize("mode", ["static", "meta"])
def test_hope_learns_a_text_far_beyond_its_letters(mode):
    assert learned_loss(continuum_mode=mode, update_periods=[16, 32]) < 0.5 * unigram_loss()


class Windows(Dataset):
    def __init__(self):
        self.rows = windows(33, 32, seed=3)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, place):
        return {"input_ids": self.rows[place], "labels": self.rows[place], "attention_mask": torch.ones(33)}


def test_the_trainer_trains_checkpoints_and_resumes(tmp_path):
    def trainer(steps):
        torch.manual_seed(0)
        model = HopeForCausalLM(configured(vocab_size=256, mixer_options={}, continuum_mode="meta"))
        options = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=steps,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_steps=4,
            eval_strategy="steps",
            eval_steps=4,
            activation_checkpointing=True,
            use_cpu=True,
            disable_tqdm=True,
            report_to=[],
            seed=0,
        )
        return Trainer(model=model, args=options, train_dataset=Windows(), eval_dataset=Windows())

    whole = trainer(8)
    whole.train()
    losses = [entry["eval_loss"] for entry in whole.state.log_history if "eval_loss" in entry]
    assert losses[-1] < losses[0] < math.log(256)
    resumed = trainer(8)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    for (name, weight), other in zip(whole.model.state_dict().items(), resumed.model.state_dict().values()):
        torch.testing.assert_close(weight, other, msg=name)
