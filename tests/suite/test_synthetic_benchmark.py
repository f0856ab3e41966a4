"""The benchmark of synthetic tasks: finished cells are kept, others are done, the page says what is there."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from nestling.recipes.suite import Training
from nestling.recipes.suite.small_models import Sizes

FILE = Path(__file__).parents[2] / "benchmarks" / "synthetic.py"
TINY = Training(
    steps=2, trial_steps=1, batch=2, rates=(1e-3, 1e-2), num_test=4, sizes=Sizes(width=16, layers=1, heads=2)
)


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("synthetic_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    study = replace(module.STUDIES["formal_languages"], how=TINY)
    monkeypatch.setattr(module, "STUDIES", {"formal_languages": study})
    return module


def test_finished_cells_are_used_again_while_the_settings_are_the_same(benchmark, monkeypatch):
    done = []
    real = benchmark.run_cell
    monkeypatch.setattr(
        benchmark, "run_cell", lambda *a, **k: done.append((a[0].name, a[1], k["seed"])) or real(*a, **k)
    )
    benchmark.run("formal_languages", ["aa"], ["llama"], [0])
    benchmark.run("formal_languages", ["aa", "abab"], ["llama"], [0, 1])
    assert done == [("aa", "llama", 0), ("aa", "llama", 1), ("abab", "llama", 0), ("abab", "llama", 1)]
    saved = json.loads((benchmark.FOLDER / "formal_languages.json").read_text())
    assert sorted(saved["cells"]) == ["aa.llama.0", "aa.llama.1", "abab.llama.0", "abab.llama.1"]
    assert saved["rates"]["aa.llama"]["rate"] in TINY.rates
    study = benchmark.STUDIES["formal_languages"]
    monkeypatch.setitem(benchmark.STUDIES, "formal_languages", replace(study, how=replace(TINY, steps=3)))
    done.clear()
    benchmark.run("formal_languages", ["aa"], ["llama"], [0])
    assert done == [("aa", "llama", 0)]


def test_the_page_shows_what_is_there(benchmark):
    training = benchmark.plain(TINY)

    def cell(seed, value):
        scores = {part: {"place": 1.0, "sequence": value} for part in ("1x", "2x", "4x")}
        facts = {"parameters": 100, "cpu_seconds": 2.0, "rate": 0.01, "training": training}
        return {"task": "aa", "model": "hope", "seed": seed, "scores": scores, **facts}

    record = {"cells": {f"aa.hope.{seed}": cell(seed, 1.0 - seed / 10) for seed in range(3)}, "rates": {}}
    benchmark.save("formal_languages", record)
    page = (benchmark.FOLDER / "formal_languages.md").read_text()
    assert "| aa | 4x | 90.0 (worst 80.0) |" in page
    assert "3 of 126 cells" in page
    assert "| hope | 100 | 2 (2) | 0.01 |" in page
    assert (benchmark.FOLDER / "formal_languages.png").stat().st_size > 1000
