"""Tasks for trained models: what they show, what they count, with readers that know everything or nothing."""

import json
import math
import random
import re

import pytest
import torch
from byte_reader import Bytes, Scripted, write_book
from transformers import LlamaConfig, LlamaForCausalLM

from nestling import HopeConfig, HopeForCausalLM
from nestling.errors import DataError, InputError, UnknownNameError
from nestling.recipes.suite import READING_TASKS, Reader, Settings, evaluate
from nestling.recipes.suite.babi import Question, make_prompt, read_stories
from nestling.recipes.suite.needle import NOISE, Needles, found_share, make_example, sentences_of
from nestling.recipes.suite.wikitext import text_loss

NEEDLES = [name for name in READING_TASKS if name.startswith("needle")]
STORY = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Mary went back to the garden.
5 Where is Mary? \tgarden\t4
1 Sandra travelled to the office.
2 Where is Sandra? \toffice\t1
"""


@pytest.fixture
def data(tmp_path):
    write_book(tmp_path)
    (tmp_path / "babi_original").mkdir()
    (tmp_path / "babi_original" / "qa1_single.txt").write_text(STORY)
    (tmp_path / "lambada").mkdir()
    lines = [{"text": "the cat sat on the mat"}, {"text": "a dog and a cat"}]
    (tmp_path / "lambada" / "lambada_dev.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "wikitext2").mkdir()
    (tmp_path / "wikitext2" / "valid.txt").write_text(" = A title = \n one two three four\n")
    return tmp_path


def tiny(kind):
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "hope":
        mixers = {"self_modifying": {"chunk_size": 4}}
        return HopeForCausalLM(HopeConfig(**sizes, update_periods=[4, 8], mixer_options=mixers, initializer_range=0.3))
    return LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=32, initializer_range=0.3))


def knowing(prompt):
    """Finds the asked keys in the text as a person would."""
    text, question = prompt.rsplit("\nWhat ", 1)
    keys = re.search(r"for (.*) mentioned in the provided text\?", question).group(1)
    wanted = [re.findall(rf"for {key} is: (\S+)\.", text) for key in re.split(r", and |, ", keys)]
    assert all(wanted)
    return " " + ", ".join(value for values in wanted for value in values)


@pytest.mark.parametrize("name", NEEDLES)
def test_needles_can_be_found_and_are_not_found_by_chance(name, data):
    settings = Settings(data=data, lengths=(800, 1500), samples=4)
    reader = Scripted(knowing)
    rows = READING_TASKS[name].run(reader, settings, lambda _: None)
    assert [(row.length, row.value, row.samples) for row in rows] == [(800, 1.0, 4), (1500, 1.0, 4)]
    for prompt, length in zip(reader.prompts, [800] * 4 + [1500] * 4):
        used = len(prompt.encode()) + len(knowing(prompt)) + 32
        assert length - 110 <= used <= length
        assert (NOISE in prompt) == (name == "needle_single_1")
        needles = re.findall(r"for (\S+) is: (\S+)\.", prompt)
        assert len(needles) == (4 if "multi" in name else 1)
        assert len({key for key, _ in needles}) == (4 if name in ("needle_multi_key", "needle_multi_query") else 1)
        assert all(
            re.fullmatch(r"[1-9]\d{6}" if name != "needle_single_3" else r"[0-9a-f-]{36}", v) for _, v in needles
        )
    assert {row.value for row in READING_TASKS[name].run(Scripted(lambda _: "1"), settings, lambda _: None)} == {0.0}


def test_needles_stand_anywhere_and_a_seed_decides(data):
    haystack = sentences_of((data / "books" / "en_random.txt").read_text())
    places = []
    for seed in range(60):
        made = [
            make_example(Needles(), length=2000, haystack=haystack, num_tokens=len, generator=random.Random(seed))
            for _ in range(2)
        ]
        assert made[0] == made[1]
        places.append(made[0].prompt.index("One of the special") / 2000)
    assert min(places) < 0.2
    assert max(places) > 0.7


def test_values_found_by_hand():
    assert found_share("they are 12 and ab-C.", ("12", "AB-c", "7", "8")) == 0.5


def test_needles_that_do_not_fit_are_refused(data):
    short = sentences_of("One. Two.")
    with pytest.raises(InputError, match="larger length"):
        make_example(Needles(noise=True), length=100, haystack=[], num_tokens=len, generator=random.Random(0))
    with pytest.raises(InputError, match="more text"):
        make_example(Needles(), length=2000, haystack=short, num_tokens=len, generator=random.Random(0))


def test_babi_stories_by_hand(data):
    first = ("Mary moved to the bathroom.", "John went to the hallway.")
    assert read_stories(data / "babi_original" / "qa1_single.txt") == [
        Question(first, "Where is Mary?", "bathroom"),
        Question((*first, "Mary went back to the garden."), "Where is Mary?", "garden"),
        Question(("Sandra travelled to the office.",), "Where is Sandra?", "office"),
    ]
    (data / "broken.txt").write_text("Mary moved.")
    with pytest.raises(DataError, match="line 1"):
        read_stories(data / "broken.txt")


def test_babi_facts_stand_in_order_among_the_sentences_of_the_book(data):
    haystack = sentences_of((data / "books" / "en_random.txt").read_text())
    facts = tuple(f"Mary moved to place {number}." for number in range(5))
    for seed in range(20):
        story = Question(facts, "Where is Mary?", "x")
        prompt = make_prompt(story, length=900, haystack=haystack, num_tokens=len, generator=random.Random(seed))
        assert re.findall(r"place (\d)", prompt) == list("01234")
        assert 800 < len(prompt) <= 892
        rest = prompt.removesuffix("\nQuestion: Where is Mary?\nAnswer:")
        for fact in facts:
            rest = rest.replace(fact, "").replace("  ", " ")
        assert rest.strip() in " ".join(haystack + haystack)


def test_babi_scores_one_with_knowledge_and_chance_without(data):
    def last_place(prompt):
        who = re.search(r"Where is (\w+)\?", prompt).group(1)
        return " " + re.findall(rf"{who} (?:moved|went back|went|travelled) to the (\w+)", prompt)[-1]

    settings = Settings(data=data, lengths=(600,), samples=300)
    (row,) = READING_TASKS["babi_qa1"].run(Scripted(last_place), settings, lambda _: None)
    assert (row.value, row.chance) == (1.0, pytest.approx(1 / 3))
    (row,) = READING_TASKS["babi_qa1"].run(Scripted(lambda _: " office"), settings, lambda _: None)
    assert abs(row.value - 1 / 3) < 3 * math.sqrt(2 / 9 / 300)


def test_lambada_by_hand(data):
    reader = Scripted(lambda context: {"the cat sat on the": " mat"}.get(context, " x"))
    rows = READING_TASKS["lambada"].run(reader, Settings(data=data), lambda _: None)
    assert [(row.metric, row.samples) for row in rows] == [("accuracy", 2), ("perplexity", 2)]
    assert [row.value for row in rows] == pytest.approx([0.5, math.exp((0.5 + 3.5) / 2)])
    (row, _) = READING_TASKS["lambada"].run(reader, Settings(data=data, limit=1), lambda _: None)
    assert (row.value, row.samples) == (1.0, 1)


@pytest.mark.parametrize(("window", "stride"), [(4, 4), (4, 2), (5, 3), (100, 50), (3, 1)])
def test_every_token_is_counted_once_with_enough_context(window, stride):
    seen = []

    class Counting(Reader):
        def __init__(self):
            pass

        def losses(self, ids):
            found = torch.tensor([1000.0**0 * (i + 1) for i in range(len(ids) - 1)])
            seen.append(ids.tolist())
            return found

    length = 13
    total = text_loss(Counting(), torch.arange(length), window=window, stride=stride)
    # The context of token t, by its own rule: all before it, but no more than its first window that has it shows.
    expected = 0
    for token in range(1, length):
        start = next(start for start in range(0, length, stride) if token <= start + window)
        expected += token - start
        assert token <= window or token - start > window - stride
    assert total == expected
    assert all(len(ids) <= window + 1 for ids in seen)


def test_wikitext_of_an_even_model(data):
    class Even(Reader):
        def __init__(self):
            self.tokenizer = Bytes()

        def losses(self, ids):
            return torch.full((len(ids) - 1,), math.log(8.0), dtype=torch.float64)

    rows = READING_TASKS["wikitext2"].run(Even(), Settings(data=data, lengths=(10,)), lambda _: None)
    text = " = A title = \n one two three four\n"
    losses = math.log(8) * (len(text) - 1)
    found = {row.metric: row.value for row in rows}
    assert found["bits per byte"] == pytest.approx(3 * (len(text) - 1) / len(text))
    assert found["byte perplexity"] == pytest.approx(math.exp(losses / len(text)))
    assert found["word perplexity"] == pytest.approx(math.exp(losses / 8))
    assert "stride 5" in rows[0].note


@pytest.mark.parametrize("kind", ["hope", "llama"])
def test_a_reader_reads_as_the_model_does(kind):
    model = tiny(kind)
    reader = Reader(model, Bytes())
    context, continuations = "where is mary?", [" here", " in the garden", " no"]
    scores = []
    for continuation in continuations:
        ids = torch.tensor([list((context + continuation).encode())])
        with torch.no_grad():
            logs = model.eval()(input_ids=ids).logits.log_softmax(-1)[0]
        by_hand = sum(logs[place - 1, ids[0, place]].item() for place in range(len(context), ids.shape[1]))
        found, greedy = reader.log_likelihood(context, continuation)
        assert found == pytest.approx(by_hand, abs=1e-4)
        assert not greedy
        scores.append(found)
    assert reader.likeliest(context, continuations) == scores.index(max(scores))
    made = reader.go_on(context, max_new_tokens=3)
    ids = list(context.encode())
    for _ in range(3):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert made == bytes(ids[len(context) :]).decode(errors="replace")
    losses = reader.losses(torch.tensor(list((context + " here").encode())))
    assert losses[-5:].sum().item() == pytest.approx(-scores[0], abs=1e-4)


def test_reading_a_context_once_gives_the_scores_of_reading_it_every_time():
    reader = Reader(tiny("hope"), Bytes())
    ids = list(b"some context")
    cache = reader._read(ids[:-1])
    for text in (b" first", b" second one", b" first"):
        again = reader.log_likelihood("some context", text.decode())[0]
        with torch.no_grad():
            assert reader._score_after(cache, ids[-1:] + list(text)) == pytest.approx(again, abs=1e-4)


def test_missing_files_and_wrong_names_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("NESTLING_DATA", str(tmp_path))
    model = tiny("llama")
    for task, words in (("lambada", "lambada"), ("wikitext2", "wikitext2"), ("babi", "qa1"), ("needle", "books")):
        tasks = [name for name in READING_TASKS if name.startswith(task) and name != "needle_single_1"]
        with pytest.raises(DataError, match=words) as error:
            evaluate(model, Bytes(), tasks, settings=Settings(lengths=(1000,), samples=1))
        assert "--data" in str(error.value)
    said = []
    with pytest.raises(DataError, match="lambada"):
        evaluate(model, Bytes(), ["needle_single_1", "lambada"], report=said.append)
    assert said == []  # before any reading
    with pytest.raises(UnknownNameError, match="did you mean 'lambada'"):
        evaluate(model, Bytes(), ["lambda"])
    with pytest.raises(InputError, match="stride"):
        Settings(lengths=(100,), stride=200)
    with pytest.raises(InputError, match="samples"):
        Settings(samples=0)
