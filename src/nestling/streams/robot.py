"""Robot manipulation in metaworld: behaviour cloning of one task after another, success measured in the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from nestling.errors import InputError
from nestling.streams.base import Examples, Experience, Predictor, Stream, Training
from nestling.streams.robot_demos import Demonstrations, Report, demonstrations
from nestling.streams.robot_physics import TASKS
from nestling.streams.robot_simulator import (
    ACTION_SIZE,
    HORIZON,
    OBSERVATION_SIZE,
    Array,
    Simulator,
    check_task,
    draw_starts,
)

Starts = Literal["test", "validation"]
MAX_ROLLOUTS = 25


def robot_stream(
    *,
    num_tasks: int = 5,
    tasks: Sequence[str] | None = None,
    num_demos: int = 25,
    seed_demos: int = 0,
    rollouts: int = MAX_ROLLOUTS,
    starts: Starts = "test",
    cache_dir: Path | str | None = None,
    report: Report | None = None,
) -> Stream:
    """Metaworld tasks as a stream: observations [N, 39] to actions [N, 4], scored by success in the simulator.

    Demonstrations are recorded on first use (a few seconds a task) and cached. Success on a task is the share of
    rollouts that complete it within 200 steps from starting states that no demonstration began in; the policy
    is not told the task, though the observation holds the positions of hand, objects and goal.

    Args:
        num_tasks: the first so many of `TASKS`, 2 to 10; ignored when `tasks` is given.
        tasks: names of metaworld tasks (V3) in the order in which they arrive.
        num_demos: expert episodes a task, at least 1.
        seed_demos: seed of the noise in them.
        rollouts: rollouts a task in an evaluation, 1 to 25.
        starts: "test", or "validation" for choosing settings: other starting states from the same distribution.
        cache_dir: folder of the cache; else $NESTLING_CACHE, else the user's cache folder.
        report: called with (what, done, total) while demonstrations are recorded.
    Raises: ResourceError when metaworld is not installed; UnknownNameError for an unknown task; InputError.
    """
    if not 1 <= rollouts <= MAX_ROLLOUTS:
        raise InputError(f"rollouts must be 1 to {MAX_ROLLOUTS}, got {rollouts}")
    names = _chosen(num_tasks, tasks)
    how = Demonstrations(num=num_demos, seed=seed_demos)
    recorded = {name: demonstrations(name, how, cache_dir=cache_dir, report=report or _silent) for name in names}
    return Stream(
        name="robot",
        kind="regression",
        experiences=tuple(_experience(name, recorded[name]) for name in names),
        num_outputs=ACTION_SIZE,
        metric="success rate",
        higher_is_better=True,
        make_model=RobotPolicy,
        evaluate=SuccessRate({name: _starts(name, starts, recorded[name])[:rollouts] for name in names}),
        training=TRAINING,
    )


class SuccessRate:
    """Evaluator: the share of rollouts in which a policy completes the task of an experience.

    A simulator is built on the first evaluation of a task (about a second) and reused; every rollout starts from
    an exact copy of its starting state, so a policy's score does not depend on what was evaluated before.

    Args:
        starts: task name -> starting states [S, D] float64.
        horizon: steps after which a rollout counts as failed; the experts need 30 to 130.
    """

    def __init__(self, starts: dict[str, Array], *, horizon: int = HORIZON) -> None:
        self.starts = starts
        self.horizon = horizon
        self._simulators: dict[str, Simulator] = {}

    def simulator(self, task: str) -> Simulator:
        """The simulator of `task`, built when first asked for."""
        if task not in self._simulators:
            self._simulators[task] = Simulator(task, self.starts[task])
        return self._simulators[task]

    def __call__(self, predict: Predictor, experience: Experience) -> float:
        """Success rate in [0, 1] of `predict` on the task of `experience`."""
        return self.simulator(experience.name).success_rate(predict, horizon=self.horizon)


class RobotPolicy(nn.Module):
    """ReLU network 39-256-256-4 from raw observations [N, 39] (metres, quaternions) to actions [N, 4] in about [-1, 1].

    The input is multiplied by a fixed 10 (decimetres), so that positions, which differ by centimetres, move
    the first layer as much as its initial bias does. The output is linear; the simulator clips it.
    """

    def __init__(self, *, width: int = 256, scale: float = 10.0) -> None:
        super().__init__()
        self.scale = scale
        self.layers = nn.Sequential(
            nn.Linear(OBSERVATION_SIZE, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, ACTION_SIZE),
        )

    def forward(self, observations: Tensor) -> Tensor:
        """Actions [N, 4] for observations [N, 39]."""
        return self.layers(observations * self.scale)


TRAINING = Training(epochs=50, batch_size=64, lr=1e-3)
"""Chosen on validation starts with all tasks learned jointly."""


def _chosen(num_tasks: int, tasks: Sequence[str] | None) -> tuple[str, ...]:
    if tasks is None:
        if not 2 <= num_tasks <= len(TASKS):
            raise InputError(f"num_tasks must be 2 to {len(TASKS)}, got {num_tasks}; or name the tasks yourself")
        return tuple(TASKS)[:num_tasks]
    names = tuple(tasks)
    for name in names:
        check_task(name)
    if len(set(names)) < len(names):
        raise InputError(f"each robot task may appear once, got {', '.join(names)}")
    return names


def _starts(name: str, which: Starts, recorded: dict[str, Array]) -> Array:
    """The starting states [25, D] of rollouts: those that come with the demonstrations, or others to choose by."""
    return recorded["test_starts"] if which == "test" else draw_starts(name, seed=1)[:MAX_ROLLOUTS]


def _experience(name: str, arrays: dict[str, Array]) -> Experience:
    def part(which: str) -> Examples:
        return Examples(inputs=torch.from_numpy(arrays[f"{which}_x"]), targets=torch.from_numpy(arrays[f"{which}_y"]))

    return Experience(name=name, train=part("train"), test=part("test"))


def _silent(_what: str, _done: int, _total: int) -> None:
    return
