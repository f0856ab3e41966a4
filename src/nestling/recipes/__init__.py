"""The main job: strategies learn a stream and are measured; runs are saved, resumed and reported."""

from __future__ import annotations

from nestling.recipes.learn import learn
from nestling.recipes.results import LearnResult, RunRecord, StreamRecord, SummaryRecord, load_results
from nestling.recipes.run import Event, Listener, Run

__all__ = [
    "Event",
    "LearnResult",
    "Listener",
    "Run",
    "RunRecord",
    "StreamRecord",
    "SummaryRecord",
    "learn",
    "load_results",
]
