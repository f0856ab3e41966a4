"""Trainings that must be the same in one process and in two: how they are spread, and what the recipe changes."""

from typing import Any

_MOVING = {"update_periods": [8, 16], "continuum_inner_rate": 1.0}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddp, levels online": ("ddp", {"options": {**_MOVING, "continuum_mode": "online"}, "optimizer": "sgd", "lr": 0.1}),
    "ddp, levels meta, rows gathered": (
        "ddp",
        {"options": {**_MOVING, "continuum_mode": "meta"}, "batch_size": 4, "micro_batch": 1},
    ),
    "fsdp, levels online": ("fsdp", {"options": {**_MOVING, "continuum_mode": "online"}}),
    "fsdp, llama, rows gathered": ("fsdp", {"model": "llama", "options": {}, "batch_size": 4, "micro_batch": 1}),
}
