"""MQAR and MAD: every asked answer found again by reading the sequence as a person would."""

import math

import pytest
import torch

from nestling.recipes.suite import GROUPS, SYNTHETIC_TASKS, Batch, loss_of, score
from nestling.recipes.suite import mad_fuzzy as fuzzy
from nestling.recipes.suite.mad_compression import Decoder
from nestling.recipes.suite.mad_memorization import fixed_values
from nestling.recipes.suite.mqar import NUM_KEYS, pairs_and_queries

RECALL = {"in_context_recall": 0.0, "noisy_recall": 0.2}


def draw(name, part=None, size=40, seed=0):
    task = SYNTHETIC_TASKS[name]
    return task, task.batch(size, part or task.parts[0], torch.Generator().manual_seed(seed))


def one_hot_oracle(batch):
    """Logits that name every target, whatever the tokens."""
    return lambda tokens: torch.nn.functional.one_hot(batch.target, int(batch.target.max()) + 2).float()


def test_mqar_is_trained_on_mixed_numbers_of_pairs():
    _, batch = draw("mqar", size=400)
    found = []
    for tokens, target, asked in zip(batch.tokens.tolist(), batch.target.tolist(), batch.asked.tolist()):
        assert len(tokens) == 36
        begin = asked.index(True)
        assert asked == [False] * begin + [True] * (36 - begin)
        shown = dict(zip(tokens[:begin:2], tokens[1:begin:2]))
        assert len(shown) == begin // 2
        assert target[begin:] == [shown[key] for key in tokens[begin:]]
        assert all(key < NUM_KEYS <= value for key, value in shown.items())
        found.append(len(shown))
    assert set(found) == set(range(1, 13))


@pytest.mark.parametrize("part", SYNTHETIC_TASKS["mqar"].parts[1:])
def test_mqar_asks_every_key_once_for_the_value_that_stood_behind_it(part):
    _, batch = draw("mqar", part)
    pairs = int(part.split()[0])
    for tokens, target, asked in zip(batch.tokens.tolist(), batch.target.tolist(), batch.asked.tolist()):
        assert len(tokens) == 3 * pairs
        shown = dict(zip(tokens[: 2 * pairs : 2], tokens[1 : 2 * pairs : 2]))
        assert len(shown) == pairs
        assert sorted(tokens[2 * pairs :]) == sorted(shown)
        assert asked == [False] * (2 * pairs) + [True] * pairs
        assert target[2 * pairs :] == [shown[key] for key in tokens[2 * pairs :]]
        assert all(key < NUM_KEYS <= value for key, value in shown.items())


def test_pairs_and_queries_by_hand():
    tokens, values = pairs_and_queries(1, 3, torch.Generator().manual_seed(0), num_keys=1, num_values=1)
    assert tokens.tolist() == [[0, 1, 0]] * 3
    assert values.tolist() == [[0]] * 3


@pytest.mark.parametrize(("name", "noise"), RECALL.items())
def test_recall_asks_the_keys_that_were_shown_before(name, noise):
    _, batch = draw(name)
    noisy = total = 0
    for tokens, target, asked in zip(batch.tokens.tolist(), batch.target.tolist(), batch.asked.tolist()):
        assert len(tokens) == 127
        assert target[:-1] == tokens[1:]
        known = {}
        for place in range(0, 127, 2):
            key, value = tokens[place], target[place]
            total += 1
            if key >= 16:
                assert value >= 16
                assert not asked[place]
                noisy += 1
                continue
            assert key < 8 <= value < 16
            assert asked[place] == (key in known)
            assert known.setdefault(key, value) == value
        assert asked[126]
        assert not any(asked[1::2])
    assert abs(noisy / total - noise) < 0.03


@pytest.mark.parametrize("part", fuzzy.PARTS)
def test_fuzzy_recall_asks_values_of_known_words(part):
    _, batch = draw("fuzzy_recall", part)
    key_sizes = set()
    for tokens, target, asked in zip(batch.tokens.tolist(), batch.target.tolist(), batch.asked.tolist()):
        whole = [*tokens, target[-1]]
        assert len(whole) == fuzzy.LENGTH + 1
        assert target == whole[1:]
        flags = [False, *asked]
        place = next(i for i, token in enumerate(whole) if token != fuzzy.PAD)
        assert place < 2 * 2 * fuzzy.LONGEST
        known, is_known = {}, False
        while place < len(whole):
            words = []
            for is_word in (lambda token: token < fuzzy.NUM_KEYS, lambda token: token >= fuzzy.NUM_KEYS):
                start = place
                while place < len(whole) and is_word(whole[place]):
                    place += 1
                words.append((start, tuple(whole[start:place])))
            (key_start, key), (value_start, value) = words
            assert len(set(key)) == len(key) <= 3
            assert len(set(value)) == len(value) <= 3
            key_sizes.add(len(key))
            is_known = key in known
            assert known.setdefault(key, value) == value
            assert flags[value_start:place] == [is_known] * len(value)
            assert not any(flags[key_start:value_start])
        assert is_known
    assert key_sizes == ({3} if part == fuzzy.PARTS[1] else {1, 2, 3})


def test_selective_copying_wants_the_tokens_in_their_order():
    _, batch = draw("selective_copying")
    for tokens, target, asked in zip(batch.tokens.tolist(), batch.target.tolist(), batch.asked.tolist()):
        assert len(tokens) == 256
        place = tokens.index(15)
        assert [token for token in tokens[:place] if token < 14] == target[-16:]
        assert tokens[place + 1 :] == [14] * 16
        assert asked == [False] * 240 + [True] * 16
        assert place == 239


def test_compression_and_memorization():
    _, batch = draw("compression")
    assert (batch.tokens[:, -1] == 15).all()
    assert torch.equal(batch.target[batch.asked], batch.tokens[:, :-1].flatten())
    _, batch = draw("memorization")
    assert (batch.tokens[:, 1::2] == 255).all()
    assert torch.equal(batch.asked, batch.tokens == 255)
    values = fixed_values()
    assert values.unique().numel() == 127
    assert torch.equal(batch.target[:, 1::2], values[batch.tokens[:, ::2]])
    assert int(batch.target.max()) < 255


@pytest.mark.parametrize("name", [name for name, task in SYNTHETIC_TASKS.items() if task.kind == "token"])
def test_an_oracle_scores_one_and_a_constant_scores_chance(name):
    task, batch = draw(name, size=400)
    assert score(one_hot_oracle(batch), batch, "token") == {"place": 1.0, "sequence": 1.0}
    answer = int(batch.target[batch.asked][0])

    def constant(tokens):
        return torch.nn.functional.one_hot(torch.full_like(tokens, answer), task.num_answers).float()

    # An answer's own share, for all answers are as likely: three standard deviations.
    asked = int(batch.asked.sum())
    chance = task.chance["place"]
    spread = 3 * math.sqrt(chance / asked) + 0.03 * (name == "fuzzy_recall")
    assert abs(score(constant, batch, "token")["place"] - chance) < max(spread, 0.02)


def test_scores_by_hand():
    batch = Batch(
        torch.zeros(2, 3, dtype=torch.long),
        torch.tensor([[0, 1, 1], [1, 0, 0]]),
        torch.tensor([[True, True, False], [False, True, False]]),
    )
    logits = torch.tensor([[[2.0, 1.0], [3.0, 0.0], [0.0, 9.0]], [[5.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    assert score(lambda tokens: logits, batch, "token") == {"place": pytest.approx(2 / 3), "sequence": 0.5}
    by_hand = (math.log1p(math.exp(-1)) + math.log1p(math.exp(3)) + math.log1p(math.exp(-1))) / 3
    assert loss_of(logits, batch, "token").item() == pytest.approx(by_hand, rel=1e-6)
    sets = batch._replace(target=torch.tensor([[[1, 0], [1, 1], [0, 0]], [[0, 0], [1, 0], [0, 0]]]).bool())
    signs = torch.tensor([[[2.0, -1.0], [3.0, -1.0], [9.0, 9.0]], [[5.0, 5.0], [1.0, -1.0], [9.0, 9.0]]])
    assert score(lambda tokens: signs, sets, "set") == {"place": pytest.approx(2 / 3), "sequence": 0.5}
    parts = [2.0, 1.0, 3.0, -1.0, 1.0, 1.0]  # the right answer's side of each logit
    by_hand = sum(math.log1p(math.exp(-part)) for part in parts) / 6
    assert loss_of(signs, sets, "set").item() == pytest.approx(by_hand, rel=1e-6)


def test_the_decoder_sees_the_last_state_only():
    class Base(torch.nn.Module):
        def forward(self, input_ids, use_cache):
            hidden = torch.nn.functional.one_hot(input_ids, 16).float().cumsum(1)
            return type("Out", (), {"last_hidden_state": hidden})

    class Model(torch.nn.Module):
        base_model = Base()

    torch.manual_seed(0)
    decoder = Decoder(Model(), dim=16, num_answers=15)
    first, second = torch.tensor([[1, 2, 3]]), torch.tensor([[3, 1, 2]])
    torch.testing.assert_close(decoder(first), decoder(second))  # the same sum at the end
    assert not torch.allclose(decoder(first)[0, 0], decoder(first)[0, 1])  # another place, another answer
    assert not torch.allclose(decoder(first), decoder(torch.tensor([[1, 2, 4]])))


def test_groups_name_tasks():
    assert [task for tasks in GROUPS.values() for task in tasks if task not in SYNTHETIC_TASKS] == []
    assert len(GROUPS["formal_languages"]) == len(GROUPS["mad"]) == 6
