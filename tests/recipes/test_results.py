"""Figures by hand, and the file that holds them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from written_result import written_result

from nestling.errors import DataError
from nestling.recipes import load_results
from nestling.recipes.report.table import bytes_text, score_text, seconds_text
from nestling.recipes.results import save_results, summarise
from nestling.recipes.scores import matrix_scores

MATRIX = [[0.9, 0.2, 0.1], [0.6, 0.8, 0.3], [0.4, 0.7, 0.95]]


def test_scores_by_hand() -> None:
    scores = matrix_scores(MATRIX, [0.1, 0.1, 0.1], higher_is_better=True)
    assert scores["average_accuracy"] == pytest.approx((0.4 + 0.7 + 0.95) / 3)
    assert scores["forgetting"] == pytest.approx(((0.9 - 0.4) + (0.8 - 0.7)) / 2)
    assert scores["backward_transfer"] == pytest.approx(((0.4 - 0.9) + (0.7 - 0.8)) / 2)
    assert scores["forward_transfer"] == pytest.approx(((0.2 - 0.1) + (0.3 - 0.1)) / 2)
    assert scores["learning_accuracy"] == pytest.approx((0.9 + 0.8 + 0.95) / 3)


def test_where_lower_is_better_a_rise_is_forgetting() -> None:
    scores = matrix_scores([[2.0, 8.0], [5.0, 2.5]], [8.0, 8.5], higher_is_better=False)
    assert scores["average_accuracy"] == pytest.approx(3.75)
    assert scores["forgetting"] == pytest.approx(3.0)
    assert scores["backward_transfer"] == pytest.approx(-3.0)
    assert scores["forward_transfer"] == pytest.approx(0.5)


def test_summary_by_hand() -> None:
    runs = [replace(run, average_accuracy=value) for run, value in zip(written_result().runs[:2], (0.5, 0.7))]
    (row,) = summarise(runs)
    assert row.num_seeds == 2
    assert row.average_accuracy_mean == pytest.approx(0.6)
    assert row.average_accuracy_std == pytest.approx(0.02**0.5)
    assert summarise(runs[:1])[0].average_accuracy_std == 0


def test_saved_and_loaded(tmp_path: Path) -> None:
    result = written_result()
    save_results(result, tmp_path)
    assert load_results(tmp_path) == result
    content = json.loads((tmp_path / "results.json").read_text())
    content["runs"][0]["of_a_later_version"] = 1
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert load_results(tmp_path) == result


def test_nan_is_never_written(tmp_path: Path) -> None:
    result = written_result()
    broken = replace(result, runs=[replace(result.runs[0], forgetting=float("nan"))])
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_results(broken, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"stream": 3}', '{"runs": [', "\udcff"])
def test_a_file_that_is_not_ours_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match="is damaged or of another version"):
        load_results(tmp_path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the --out folder"):
        load_results(tmp_path)


def test_numbers_as_people_read_them() -> None:
    assert [bytes_text(value) for value in (0, 12, 1234, 999_999, 25e6, 2.5e9)] == [
        "0", "12 B", "1.23 kB", "1 MB", "25 MB", "2.5 GB",
    ]  # fmt: skip
    assert [seconds_text(value) for value in (0.0123, 2.5, 64, 600, 9000)] == [
        "12 ms",
        "2.5 s",
        "64 s",
        "10 min",
        "2.5 h",
    ]
    shares, bits = written_result(), written_result(metric="bits per byte", higher_is_better=False)
    assert score_text(shares, 0.9712) == "97.1"
    assert score_text(shares, -0.00001) == "0.0"
    assert score_text(bits, -0.126) == "\u22120.13"
