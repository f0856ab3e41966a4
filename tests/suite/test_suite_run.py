"""Small models, training, the run of the suite, its files and its command."""

import json
import math

import pytest
import torch
from byte_reader import Bytes, Scripted, write_book
from typer.testing import CliRunner

from nestling.cli import app
from nestling.errors import DataError, InputError, UnknownNameError
from nestling.recipes.language.tokenizer import byte_tokenizer
from nestling.recipes.suite import (
    READING_TASKS,
    SYNTHETIC_TASKS,
    Batch,
    Settings,
    SyntheticTask,
    Training,
    evaluate,
    loss_of,
    run_suite,
    train_and_test,
    train_synthetic,
)
from nestling.recipes.suite import run as run_module
from nestling.recipes.suite.small_models import SMALL_MODELS, Sizes, make_small_model
from nestling.recipes.suite.train_synthetic import choose_rate, learner, run_cell, train, validation_loss

SIZES = Sizes(width=16, layers=1, heads=2)
QUICK = Training(steps=2, trial_steps=1, batch=4, rates=(1e-3, 1e-2), num_test=8, sizes=SIZES)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_small_models_are_equally_large_and_causal(name):
    sizes = Sizes()
    hope = count(make_small_model("hope", vocab_size=8, sizes=sizes, seed=0))
    model = make_small_model(name, vocab_size=8, sizes=sizes, seed=0).eval()
    assert abs(count(model) - hope) < 0.05 * hope
    again = make_small_model(name, vocab_size=8, sizes=sizes, seed=0)
    for first, second in zip(model.parameters(), again.parameters()):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
    tokens = torch.randint(8, (2, 20), generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[:, 12:] = (other[:, 12:] + 1) % 8
    with torch.no_grad():
        first, second = (model(input_ids=ids, use_cache=False).logits for ids in (tokens, other))
    torch.testing.assert_close(first[:, :12], second[:, :12], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first[:, 12:], second[:, 12:])


def test_hope_of_the_suite_may_have_negative_eigenvalues():
    model = make_small_model("hope", vocab_size=8, sizes=SIZES, seed=0)
    assert model.model.layers[0].mixer.how.negative_eigenvalues


MUON = "muon:precision=parameter"


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [("parity", "adam"), ("compression", "adam"), ("memorization", MUON), ("mqar", "adam")],
)
def test_training_lowers_the_loss_and_repeats_itself(name, optimizer):
    task, how = SYNTHETIC_TASKS[name], Training(steps=40, batch=8, num_test=32, sizes=SIZES, optimizer=optimizer)
    losses, weights = [], []
    for _ in range(2):
        module = learner(task, "hope", how.sizes, 1)
        losses.append(validation_loss(module, task, how))
        train(module, task, how, rate=1e-2, seed=1, steps=40, report=lambda _: None)
        losses.append(validation_loss(module, task, how))
        weights.append([parameter.detach().clone() for parameter in module.parameters()])
    assert losses[:2] == losses[2:]
    assert losses[1] < losses[0] - 0.02
    assert all(torch.equal(first, second) for first, second in zip(*weights))


def test_the_rate_with_the_lowest_validation_loss_is_chosen():
    """Weights that may only move far: the largest rate is best; and one that breaks the model never is."""
    task = SYNTHETIC_TASKS["aa"]
    how = Training(steps=1, trial_steps=20, batch=8, rates=(1e-6, 1e-2, 1e6), num_test=16, sizes=SIZES)
    rate, losses = choose_rate(task, "llama", how, lambda _: None)
    assert rate == 1e-2
    assert losses["0.01"] == min(losses.values())
    assert losses["1e-06"] == pytest.approx(math.log(2), abs=0.1)


def test_of_rates_that_are_as_good_the_smallest_is_chosen(monkeypatch):
    found = {1e-3: 0.5, 3e-3: 0.108, 1e-2: 0.1, 3e-2: math.inf}
    monkeypatch.setattr(train_synthetic, "train", lambda module, *_, rate, **__: setattr(module, "rate", rate))
    monkeypatch.setattr(train_synthetic, "validation_loss", lambda module, *_: found[module.rate])
    how = Training(rates=tuple(found), sizes=SIZES)
    assert choose_rate(SYNTHETIC_TASKS["aa"], "llama", how, lambda _: None)[0] == 3e-3


@pytest.mark.parametrize("model", SMALL_MODELS)
def test_every_model_compresses_and_learns_from_it(model):
    task = SYNTHETIC_TASKS["compression"]
    module = learner(task, model, Sizes(width=32, layers=1), 0)
    batch = task.batch(4, "1x", torch.Generator().manual_seed(0))
    loss_of(module(batch.tokens), batch, task.kind).backward()
    parts = [(name, part) for name, part in module.named_parameters() if part.numel()]
    still = [name for name, part in parts if part.grad is None or not part.grad.abs().sum() > 0]
    assert [name for name in still if "lm_head" not in name] == []


def test_a_cell_is_plain_data_and_repeats_itself():
    first, second = (
        run_cell(SYNTHETIC_TASKS["abab"], "gated_delta", QUICK, rate=1e-2, seed=3, report=lambda _: None)
        for _ in range(2)
    )
    assert json.loads(json.dumps(first))["scores"] == second["scores"]
    assert list(first["scores"]) == ["1x", "2x", "4x"]
    assert first["validation_loss"] == second["validation_loss"]


def test_a_task_that_a_model_can_only_guess_scores_chance():
    def draw(batch, part, generator):
        tokens = torch.zeros(batch, 50, dtype=torch.int64)
        return Batch(tokens, torch.randint(4, tokens.shape, generator=generator), tokens == 0)

    task = SyntheticTask(name="coin", summary="", source="", vocab_size=5, kind="token", num_answers=4, draw=draw)
    how = Training(steps=20, batch=4, num_test=40, sizes=SIZES)
    cell = run_cell(task, "llama", how, rate=1e-2, seed=0, report=lambda _: None)
    assert abs(cell["scores"]["1x"]["place"] - 0.25) < 4 * math.sqrt(3 / 16 / 2000)


def test_the_suite_trains_small_models_by_name(tmp_path):
    result = run_suite("hope_attention", ["aa", "abab"], training=QUICK, out=tmp_path / "out")
    assert [(row.task, row.metric) for row in result.rows[:2]] == [("aa", "place"), ("aa", "sequence")]
    assert len(result.rows) == 2 * 3 * 2
    saved = json.loads((tmp_path / "out" / "suite.json").read_text())
    assert saved["model"] == "hope_attention"
    assert [row["value"] for row in saved["rows"]] == [row.value for row in result.rows]
    assert (tmp_path / "out" / "suite.md").read_text() == result.markdown()


def test_the_command_scores_a_checkpoint(tmp_path):
    write_book(tmp_path)
    (tmp_path / "wikitext2").mkdir()
    (tmp_path / "wikitext2" / "test.txt").write_text("one two three four five\n" * 10)
    model = make_small_model("llama", vocab_size=259, sizes=SIZES, seed=0)
    model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    command = ["suite", str(tmp_path / "model"), "-t", "needle_single_2", "-t", "wikitext2", "--lengths", "400"]
    command += ["--samples", "1", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    saved = json.loads((tmp_path / "out" / "suite.json").read_text())
    found = {(row["task"], row["metric"]): row["value"] for row in saved["rows"]}
    assert found["needle_single_2", "values found"] == 0
    assert 7 < found["wikitext2", "bits per byte"] < 9.5  # an untrained model of 259 tokens: about log2 of that
    assert "| wikitext2 | 400 | bits per byte |" in done.output


def test_eval_runs_the_whole_suite(tmp_path, monkeypatch):
    write_book(tmp_path)
    model = make_small_model("llama", vocab_size=259, sizes=SIZES, seed=0)
    model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    command = ["eval", str(tmp_path / "model"), "--suite", "--data", str(tmp_path), "-l", "400"]
    with pytest.raises(DataError, match="qa1"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    monkeypatch.setattr(run_module, "READING_TASKS", {"needle_single_2": READING_TASKS["needle_single_2"]})
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")])
    assert "| needle_single_2 | 400 | values found | 0 |" in done.output
    assert (tmp_path / "out" / "suite.json").exists()
    with pytest.raises(InputError, match="--suite"):
        CliRunner().invoke(app, ["eval", str(tmp_path / "model")], catch_exceptions=False)


def test_the_command_lists_every_task_and_refuses_what_it_does_not_know(tmp_path):
    shown = CliRunner().invoke(app, ["suite", "--list"]).output
    assert [name for name in (*READING_TASKS, *SYNTHETIC_TASKS) if f"  {name} " not in shown] == []
    with pytest.raises(UnknownNameError, match="parity"):
        run_suite("hope", ["parrity"])
    with pytest.raises(UnknownNameError, match="small model"):
        train_and_test("hop", ["parity"], report=lambda _: None)
    with pytest.raises((DataError, InputError), match="nothing"):
        run_suite(str(tmp_path / "nothing"), ["needle_single_1"])
    with pytest.raises(InputError, match="lengths"):
        CliRunner().invoke(app, ["suite", "x", "--lengths", "a,b"], catch_exceptions=False)
    with pytest.raises(UnknownNameError, match="muon"):
        CliRunner().invoke(app, ["suite", "hope", "-t", "mqar", "--optimizer", "muom"], catch_exceptions=False)
    with pytest.raises(InputError, match="multiple"):
        Sizes(width=30)


def test_evaluate_takes_any_reader(monkeypatch):
    monkeypatch.setattr(run_module, "Reader", lambda model, tokenizer: Scripted(lambda _: " nothing"))
    settings = Settings(lengths=(700,), samples=2)
    said = []
    result = evaluate(object(), Bytes(), ["needle_single_1"], settings=settings, report=said.append, name="nobody")
    assert [(row.value, row.chance) for row in result.rows] == [(0.0, 0.0)]
    assert said == ["needle_single_1, 700 tokens: 0.000"]
    assert result.markdown().startswith("# Evaluation suite: nobody\n")
