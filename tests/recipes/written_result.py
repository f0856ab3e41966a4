"""A result written out by hand, for the tests of files and pages."""

from __future__ import annotations

from nestling.recipes.results import LearnResult, RunRecord, StreamRecord, summarise
from nestling.recipes.scores import matrix_scores

MATRICES = {
    "naive": [[[0.9, 0.0], [0.1, 0.8]], [[0.7, 0.0], [0.3, 0.9]]],
    "<b>ours</b>": [[[0.9, 0.0], [0.9, 0.9]], [[0.9, 0.0], [0.8, 0.9]]],
    "joint": [[[0.95, 0.0], [0.95, 0.95]], [[0.95, 0.0], [0.95, 0.95]]],
}


def written_result(metric: str = "accuracy", *, higher_is_better: bool = True) -> LearnResult:
    """Two experiences, three strategies, two seeds."""
    experiences = ["first <i>task</i>", "second"]
    runs = [
        RunRecord(
            strategy=strategy,
            seed=seed,
            matrix=matrix,
            baseline=[0.0, 0.0],
            **matrix_scores(matrix, [0.0, 0.0], higher_is_better=higher_is_better),
            stored_bytes=1000 if strategy == "joint" else 0,
            state_bytes=2000,
            num_parameters=1234,
            seconds=1.5,
            evaluation_seconds=0.5,
            peak_memory_bytes=400_000_000,
            experiences=experiences,
        )
        for strategy, matrices in MATRICES.items()
        for seed, matrix in enumerate(matrices)
    ]
    return LearnResult(
        stream=StreamRecord(name="toy", experiences=experiences, hash="ab" * 32),
        metric=metric,
        higher_is_better=higher_is_better,
        runs=runs,
        summary=summarise(runs),
        config={"strategies": list(MATRICES), "seeds": [0, 1], "order": "given", "stream_details": {"features": "x"}},
        command="nestling learn --stream 'a & b' --out runs/toy",
        machine={"processor": "a processor", "cores": 2, "memory_bytes": 8_000_000_000, "system": "Linux"},
        versions={"nestling": "0.1.0"},
        complete=True,
    )
