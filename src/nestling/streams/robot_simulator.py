"""Metaworld tasks as simulators with fixed starting states, stepped many at a time."""

from __future__ import annotations

import copy
import importlib
import pickle
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nestling.errors import InputError, ResourceError, UnknownNameError
from nestling.streams.base import Predictor
from nestling.streams.robot_physics import TASKS, Stepper

OBSERVATION_SIZE = 39
ACTION_SIZE = 4
HORIZON = 200

Array = NDArray[Any]

# Fields of the shared MuJoCo model that a metaworld reset may move.
_MOVABLE = ("body_pos", "body_quat", "site_pos", "geom_pos")


def load_metaworld() -> Any:
    """The metaworld package, imported on first use.

    Raises: ResourceError when metaworld or mujoco is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("metaworld")
    except ImportError as error:
        raise ResourceError(
            f"the robot stream needs metaworld and mujoco, which cannot be imported ({error}): "
            'run pip install "nestling[robot]"'
        ) from error


def check_task(task: str) -> None:
    """Raise UnknownNameError, naming the nearest, unless metaworld has `task`."""
    known = load_metaworld().MT1.ENV_NAMES
    if task not in known:
        raise UnknownNameError("robot task", task, known)


def draw_starts(task: str, *, seed: int) -> Array:
    """The 50 starting states [50, D] float64 of metaworld's MT1 benchmark for one task and seed."""
    benchmark = load_metaworld().MT1(task, seed=seed)
    return np.stack([pickle.loads(item.data)["rand_vec"] for item in benchmark.train_tasks])


def make_environment(task: str) -> Any:
    """One metaworld environment whose goal is part of the observation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_metaworld().env_dict.ALL_V3_ENVIRONMENTS[task]()


def reset(environment: Any, task: str, start: Array) -> Array:
    """Put the environment into the starting state `start` [D]; the first observation [39] float64."""
    data = {"rand_vec": start, "env_cls": type(environment), "partially_observable": False}
    environment.set_task(load_metaworld().Task(env_name=task, data=pickle.dumps(data)))
    observation, _ = environment.reset()
    return observation


class Simulator:
    """One task with fixed starting states that are restored exactly, so that no rollout depends on an earlier one.

    Metaworld's reset simulates 100 steps of the hand; here it runs once per starting state, and its outcome (MuJoCo's
    data, the model's movable positions, the environment's attributes) is copied back before every rollout.
    The environments of one task share one compiled model: its movable positions are swapped in before each step.
    The tasks of `robot_physics.TASKS` are stepped without metaworld's reward, about five times as fast.

    Args:
        task: name of a metaworld task.
        starts: [S, D] float64, one starting state a row, from `draw_starts`.
    """

    def __init__(self, task: str, starts: Array) -> None:
        self.task = task
        environment = make_environment(task)
        self.model = environment.model
        self._snapshots = [_snapshot(environment, task, start) for start in starts]
        self._environments = [_twin(environment) for _ in self._snapshots]
        self._stepper = Stepper(TASKS[task], environment) if task in TASKS else None

    def __len__(self) -> int:
        return len(self._snapshots)

    def restore(self, index: int) -> Array:
        """Put rollout `index` back to its starting state; the first observation [39] float64."""
        snapshot, environment = self._snapshots[index], self._environments[index]
        environment.__dict__.update(copy.deepcopy(snapshot.attributes))
        environment.data = copy.copy(snapshot.data)
        return snapshot.observation

    def place(self, index: int) -> Any:
        """The environment of rollout `index`, with the shared model set to its positions."""
        for name, value in self._snapshots[index].positions.items():
            getattr(self.model, name)[:] = value
        return self._environments[index]

    def step(self, index: int, action: Array) -> tuple[Array, bool]:
        """Apply `action` [4] in rollout `index`; the next observation [39] float64 and whether the task is done."""
        environment = self.place(index)
        if self._stepper is not None:
            return self._stepper.step(environment, action)
        observation, _, _, _, info = environment.step(action)
        return observation, bool(info["success"] > 0)

    def success_rate(self, predict: Predictor, *, horizon: int = HORIZON) -> float:
        """Share of the starting states from which `predict`, [N, 39] -> [N, 4], completes the task in `horizon` steps.

        All unfinished rollouts are stepped together, so that the policy is asked once per step for all of them.
        """
        observations = np.stack([self.restore(index) for index in range(len(self))])
        active = list(range(len(self)))
        for _ in range(horizon):
            if not active:
                break
            actions = act(predict, observations[active], self.task)
            unfinished = []
            for index, action in zip(active, actions, strict=True):
                observations[index], done = self.step(index, action)
                if not done:
                    unfinished.append(index)
            active = unfinished
        return 1.0 - len(active) / len(self)


def act(predict: Predictor, observations: Array, task: str) -> Array:
    """Actions [N, 4] in [-1, 1] for observations [N, 39]: the predictor's outputs, clipped.

    Raises: InputError when the outputs have another shape or are not finite.
    """
    with torch.no_grad():
        actions = predict(torch.from_numpy(observations.astype(np.float32)))
    expected = (len(observations), ACTION_SIZE)
    if tuple(actions.shape) != expected:
        raise InputError(
            f"a robot policy must map observations [N, {OBSERVATION_SIZE}] to actions [N, {ACTION_SIZE}]: expected "
            f"{list(expected)}, got {list(actions.shape)}; give the model {ACTION_SIZE} outputs"
        )
    if not bool(torch.isfinite(actions).all()):
        raise InputError(f"the policy gave actions that are not finite numbers in {task}: lower its learning rate")
    return actions.detach().cpu().double().clamp(-1.0, 1.0).numpy()


class _Snapshot(NamedTuple):
    """What a reset leaves behind: MuJoCo's data, the model's positions, the environment's own values."""

    observation: Array
    data: Any
    positions: dict[str, Array]
    attributes: dict[str, Any]


def _snapshot(environment: Any, task: str, start: Array) -> _Snapshot:
    observation = reset(environment, task, start)
    own = {k: v for k, v in environment.__dict__.items() if isinstance(v, np.ndarray | dict | list | int | float)}
    return _Snapshot(
        observation=observation,
        data=copy.copy(environment.data),
        positions={name: getattr(environment.model, name).copy() for name in _MOVABLE},
        attributes=copy.deepcopy(own),
    )


def _twin(environment: Any) -> Any:
    """A second environment on the same compiled model; `restore` gives it its own data."""
    twin = object.__new__(type(environment))
    twin.__dict__.update(environment.__dict__)
    return twin
