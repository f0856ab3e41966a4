"""One simulator step of ten metaworld tasks without the reward: the same physics, observation and success, sooner.

Most of metaworld's step is the dense reward and general-purpose conversions. A policy that is only scored needs
neither. The physics (MuJoCo calls, their order and arguments) is metaworld's; the tests compare both step by step.

Source: Yu et al. 2019, "Meta-World", arXiv 1910.10897; the success conditions are those of metaworld 3.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_OBJECT_SLOTS = 14
_GRIPPER_WIDTH = 0.1


@dataclass(frozen=True, kw_only=True)
class Task:
    """Where one task's object is, how it is turned, and when the task is done.

    place: ("body" | "geom" | "site", name) whose position is the object's, after adding `offset` (metres).
    turn:  ("quaternion" | "body" | "geom", name): MuJoCo's quaternion of a body (w first), or the quaternion (w last)
        of the matrix of a body or geom; None leaves it zero.
    done:  which part of object - goal must be shorter than `radius` (metres), `lever` added first; "hand" takes the
        hand's centre for the object.
    """

    place: tuple[Literal["body", "geom", "site"], str]
    turn: tuple[Literal["quaternion", "body", "geom"], str] | None
    radius: float
    done: Literal["all", "x", "z", "hand"] = "all"
    offset: tuple[float, float, float] | None = None
    lever: tuple[float, float, float] | None = None


TASKS: dict[str, Task] = {
    "coffee-pull-v3": Task(place=("body", "obj"), turn=("geom", "mug"), radius=0.07),
    "soccer-v3": Task(place=("body", "soccer_ball"), turn=("body", "soccer_ball"), radius=0.07),
    "drawer-open-v3": Task(
        place=("body", "drawer_link"), turn=("quaternion", "drawer_link"), radius=0.03, offset=(0.0, -0.16, 0.0)
    ),
    "door-close-v3": Task(place=("geom", "handle"), turn=("geom", "handle"), radius=0.08),
    "reach-v3": Task(place=("body", "obj"), turn=("geom", "objGeom"), radius=0.05, done="hand"),
    "button-press-topdown-v3": Task(
        place=("body", "button"), turn=("quaternion", "button"), radius=0.024, done="z", offset=(0.0, 0.0, 0.193)
    ),
    "window-open-v3": Task(place=("site", "handleOpenStart"), turn=None, radius=0.05, done="x"),
    "plate-slide-v3": Task(place=("geom", "puck"), turn=("geom", "puck"), radius=0.07),
    "faucet-open-v3": Task(
        place=("site", "handleStartOpen"),
        turn=("quaternion", "faucetBase"),
        radius=0.07,
        offset=(0.0, 0.0, -0.01),
        lever=(-0.04, 0.0, 0.03),
    ),
    "handle-press-side-v3": Task(place=("site", "handleStart"), turn=None, radius=0.02, done="z"),
}


class Stepper:
    """Steps environments of one of `TASKS`, which share `environment.model`."""

    def __init__(self, task: Task, environment: Any) -> None:
        mujoco = importlib.import_module("mujoco")
        self._simulate, self._forward = mujoco.mj_step, mujoco.mj_forward
        self.task = task
        self.model = model = environment.model
        space = environment.sawyer_observation_space
        self._low, self._high = space.low, space.high
        kind, name = task.place
        self._object = (f"{kind}_xpos" if kind != "body" else "xpos", getattr(model, kind)(name).id)
        self._turn = _turn_source(task, model)
        self._hand = model.body("hand").id
        self._claws = model.body("rightclaw").id, model.body("leftclaw").id
        self._fingers = model.site("rightEndEffector").id, model.site("leftEndEffector").id

    def step(self, environment: Any, action: Array) -> tuple[Array, bool]:
        """Apply `action` [4] in [-1, 1]; the next observation [39] float64 and whether the task is done."""
        data = environment.data
        moved = data.mocap_pos[0] + action[:3] * environment.action_scale
        data.mocap_pos[0] = np.minimum(np.maximum(moved, environment.mocap_low), environment.mocap_high)
        data.mocap_quat[0] = (1.0, 0.0, 1.0, 0.0)
        data.ctrl[:] = action[3], -action[3]
        self._simulate(self.model, data, nstep=environment.frame_skip)
        self._forward(self.model, data)
        current = self._observe(data)
        goal = environment._target_pos
        observation = np.concatenate((current, environment._prev_obs, goal))
        environment._prev_obs = current
        np.minimum(np.maximum(observation, self._low, out=observation), self._high, out=observation)
        return observation, self._is_done(data, current[4:7], goal)

    def _observe(self, data: Any) -> Array:
        current = np.zeros(4 + _OBJECT_SLOTS)
        current[:3] = data.xpos[self._hand]
        right, left = self._claws
        apart = data.xpos[right] - data.xpos[left]
        current[3] = min(math.sqrt(apart.dot(apart)) / _GRIPPER_WIDTH, 1.0)
        field, place = self._object
        current[4:7] = getattr(data, field)[place]
        if self.task.offset is not None:
            current[4:7] += self.task.offset
        if self._turn is not None:
            field, place = self._turn
            value = getattr(data, field)[place]
            current[7:11] = value if field == "xquat" else quaternion(value.tolist())
        return current

    def _is_done(self, data: Any, position: Array, goal: Array) -> bool:
        task = self.task
        if task.done == "hand":
            right, left = self._fingers
            position = (data.site_xpos[right] + data.site_xpos[left]) / 2.0
        elif task.lever is not None:
            position = position + task.lever
        offset = position - goal
        if task.done == "x":
            return abs(offset[0]) <= task.radius
        if task.done == "z":
            return abs(offset[2]) <= task.radius
        return math.sqrt(offset.dot(offset)) <= task.radius


def quaternion(matrix: list[float]) -> tuple[float, float, float, float]:
    """Unit quaternion (x, y, z, w) of a rotation matrix given as nine numbers, row by row.

    The largest of the diagonal and the trace chooses which component is computed without cancellation.

    Source: Markley 2008, "Unit quaternion from rotation matrix"; the sign is that of scipy's Rotation.
    """
    a, b, c, d, e, f, g, h, i = matrix
    trace = a + e + i
    largest = max(a, e, i, trace)
    if largest == a:
        x, y, z, w = 1 - trace + 2 * a, d + b, g + c, h - f
    elif largest == e:
        x, y, z, w = d + b, 1 - trace + 2 * e, h + f, c - g
    elif largest == i:
        x, y, z, w = g + c, h + f, 1 - trace + 2 * i, d - b
    else:
        x, y, z, w = h - f, c - g, d - b, 1 + trace
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    return x / norm, y / norm, z / norm, w / norm


def _turn_source(task: Task, model: Any) -> tuple[str, int] | None:
    """Field of MuJoCo's data and row that hold the orientation."""
    if task.turn is None:
        return None
    kind, name = task.turn
    if kind == "quaternion":
        return "xquat", model.body(name).id
    return ("xmat", model.body(name).id) if kind == "body" else ("geom_xmat", model.geom(name).id)
