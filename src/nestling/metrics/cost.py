"""What learning cost: seconds and peak memory of a piece of code."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"  # proc(5): writing 5 sets VmHWM back to the current resident size


@dataclass
class Cost:
    """Filled when the measured block ends.

    seconds:            wall-clock time.
    peak_memory_bytes:  highest resident size of this process during the block, everything loaded before included
                        (where the system cannot reset the peak: since the process began).
    """

    seconds: float = 0.0
    peak_memory_bytes: int = 0


@contextmanager
def measure_cost() -> Iterator[Cost]:
    """Measure a block of code; the `Cost` is filled when the block ends.

    Blocks must not be nested: the inner one resets the peak of the outer one.
    """
    cost = Cost()
    reset_peak_memory()
    start = time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - start
        cost.peak_memory_bytes = peak_memory_bytes()


def reset_peak_memory() -> bool:
    """Set the peak back to the current resident size; False where the system offers no way (not Linux)."""
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def peak_memory_bytes() -> int:
    """Highest resident size since the last reset, else since the process began."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return _peak_by_rusage()
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return _peak_by_rusage()


def _peak_by_rusage() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others kilobytes
