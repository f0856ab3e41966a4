"""Peak memory follows what a block allocates, and does not remember what came before."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from nestling.metrics import cost as cost_file
from nestling.metrics import measure_cost, peak_memory_bytes

MEGABYTE = 1024 * 1024


def touch(megabytes):
    return int(np.ones(megabytes * MEGABYTE, dtype=np.uint8).sum())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset the peak")
def test_a_later_block_does_not_remember_an_earlier_peak():
    with measure_cost() as large:
        touch(200)
    with measure_cost() as small:
        touch(1)
    assert large.peak_memory_bytes - small.peak_memory_bytes > 150 * MEGABYTE


def test_seconds_are_wall_clock_and_filled_even_when_the_block_fails():
    measured = []

    def fail_slowly():
        with measure_cost() as cost:
            measured.append(cost)
            time.sleep(0.05)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_slowly()
    (cost,) = measured
    assert 0.05 <= cost.seconds < 5
    assert cost.peak_memory_bytes > 10 * MEGABYTE


def test_without_proc_the_peak_since_the_start_is_given(monkeypatch, tmp_path):
    true_peak = peak_memory_bytes()
    monkeypatch.setattr(cost_file, "_STATUS", tmp_path / "missing")
    monkeypatch.setattr(cost_file, "_CLEAR_REFS", tmp_path / "missing" / "too")
    assert not cost_file.reset_peak_memory()
    assert peak_memory_bytes() >= true_peak * 0.9
    with measure_cost() as cost:
        pass
    assert cost.peak_memory_bytes > 10 * MEGABYTE
