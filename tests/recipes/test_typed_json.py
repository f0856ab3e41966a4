"""A results file that is damaged is an error that says where; one of a later version is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from written_result import written_result

from nestling.errors import DataError
from nestling.recipes.results import load_results, save_results
from nestling.recipes.typed_json import fits

Change = Callable[[dict[str, Any]], object]


def changed(folder: Path, change: Change) -> Path:
    content = json.loads(json.dumps(asdict(written_result())))
    change(content)
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    save_results(written_result(), tmp_path)
    assert load_results(tmp_path) == written_result()
    assert load_results(changed(tmp_path, lambda content: content.update(new=1, summary=[]))) == written_result()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("runs"), "'runs' is missing"),
        (lambda c: c.update(runs=[], summary=[]), "it holds no runs"),
        (lambda c: c.update(runs={}), "'runs' is not what it should be"),
        (lambda c: c.update(stream=3), "'stream' is not what it should be"),
        (lambda c: c["stream"].pop("hash"), "'hash' is missing"),
        (lambda c: c["runs"][1].update(matrix=[[1.0]]), r"the matrix of 'naive' \(seed 1\) is not 2 by 2"),
        (lambda c: c["runs"][0].update(matrix=[[1.0, 2.0], [3.0]]), "is not 2 by 2"),
        (lambda c: c["runs"][0].update(matrix=[["a", "b"], ["c", "d"]]), "'matrix' is not what"),
        (lambda c: c["runs"][0].update(forgetting=float("nan")), "'forgetting' is not what"),
        (lambda c: c["runs"][0].update(num_parameters="12"), "'num_parameters' is not what"),
        (lambda c: c["runs"].append(7), "'runs' is not what"),
        (lambda c: c.update(config=None), "'config' is not what"),
        (lambda c: c["config"].update(seeds=[]), "names no strategies or seeds"),
        (lambda c: c["config"].pop("order"), "names no order"),
    ],
)
def test_damage_is_named(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(DataError, match=rf"is damaged or of another version .*{message}.*--resume makes it again"):
        load_results(changed(tmp_path, change))


@pytest.mark.parametrize("content", ["", "{", "null", "[]", "\x00", "3"])
def test_what_is_no_object_is_damage(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(DataError, match="is damaged or of another version"):
        load_results(tmp_path)


def test_a_run_without_results_yet_is_told_from_another_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the --out folder"):
        load_results(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="no run in it is finished yet"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        (float("inf"), float, False),
        (None, int | None, True),
        ("x", int | None, False),
        ([[1.0]], list[list[float]], True),
        ([1.0], list[list[float]], False),
        ({"a": "b"}, dict[str, str], True),
        ({"a": 1}, dict[str, str], False),
        (object(), Any, True),
    ],
)
def test_types(value: object, hint: object, expected: bool) -> None:
    assert fits(value, hint) is expected
