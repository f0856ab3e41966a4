"""The speed benchmark: its figures on made-up timings, and one tiny real run."""

import json
from pathlib import Path

import pytest

from nestling.errors import ResourceError
from nestling.recipes.bench import SUBJECTS, Case, Measurement, Plan, available_subjects, run_cases, write_report
from nestling.recipes.bench.report import cost_exponent, markdown
from nestling.recipes.bench.subjects import build


def timed(tokens, seconds, subject="delta"):
    return Measurement(
        subject=subject,
        case=Case(batch=1, tokens=tokens, width=256),
        forward=seconds / 2,
        both=seconds,
        forward_ratio=2.0,
        both_ratio=1.25,
        peak_mb=12.0,
        num_parameters=1000,
    )


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_exponent_of_known_costs(power):
    rows = [timed(tokens, 1e-6 * tokens**power) for tokens in (1024, 2048, 4096, 8192)]
    assert cost_exponent(rows, "delta") == pytest.approx(power)
    assert cost_exponent(rows[:2], "delta") is None


def test_table_shows_rates_and_ratios():
    text = markdown([timed(1000, 0.5)])
    assert "| 1 | 1000 | 256 | delta | 4,000 | 2,000 | 2.00 | 1.25 | 12 | 1,000 |" in text


def test_one_run_times_every_subject_and_writes_its_files(tmp_path):
    cases = (Case(batch=1, tokens=16, width=64), Case(batch=1, tokens=1, width=64, cache=8))
    plan = Plan(subjects=("sdpa", "delta"), cases=cases, repeats=1, with_memory=False)
    rows = list(run_cases(plan))
    assert [(row.subject, row.case.tokens) for row in rows] == [("sdpa", 16), ("delta", 16), ("sdpa", 1), ("delta", 1)]
    assert all(row.forward > 0 for row in rows)
    assert rows[0].forward_ratio == 1.0
    assert rows[3].both is None
    paths = write_report(rows, tmp_path / "results")
    assert [path.suffix for path in paths] == [".md", ".json", ".png"]
    assert len(json.loads(paths[1].read_text())["rows"]) == 4


def test_blocks_have_equal_parameters():
    counts = {name: sum(p.numel() for p in build(name, 256).parameters()) for name in ("sdpa", "delta", "dgd")}
    assert max(counts.values()) - min(counts.values()) < 0.001 * counts["sdpa"]


def test_missing_peers_are_left_out_and_say_so_when_asked_for():
    missing = [name for name in SUBJECTS if name not in available_subjects()]
    for name in missing:
        with pytest.raises(ResourceError, match=SUBJECTS[name].package):
            build(name, 64)


def test_unwritable_folder_is_a_resource_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="another folder"):
        write_report([timed(1024, 1.0)], Path(tmp_path / "file" / "inside"))
