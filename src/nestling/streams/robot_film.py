"""Pictures of a rollout, where the machine can render."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nestling.errors import ResourceError
from nestling.streams.base import Predictor
from nestling.streams.robot_simulator import HORIZON, Array, Simulator, act

CAMERA = "corner"
PAUSE = 8


def frames(
    simulator: Simulator, predict: Predictor, *, start: int = 0, every: int = 4, size: int = 320, horizon: int = HORIZON
) -> Array:
    """Pictures [T, size, size, 3] uint8 of one rollout, one in `every` steps, with a pause at the end.

    Args:
        simulator: of the task.
        predict: the policy, [N, 39] -> [N, 4].
        start: which starting state.
        every: steps between pictures.
        size: pixels.
        horizon: steps at most; success ends the rollout.
    Raises: ResourceError when this machine cannot render.
    """
    mujoco: Any = importlib.import_module("mujoco")
    try:
        renderer = mujoco.Renderer(simulator.model, size, size)
    except Exception as error:  # the drivers raise whatever they like
        raise ResourceError(
            f"this machine cannot render MuJoCo ({error}): install libegl1 or libosmesa6 and set MUJOCO_GL to egl or "
            "osmesa"
        ) from error
    observation = simulator.restore(start)
    pictures: list[Array] = []
    for moment in range(horizon):
        if moment % every == 0:
            pictures.append(_picture(renderer, simulator, start))
        action = act(predict, observation[None], simulator.task)[0]
        observation, done = simulator.step(start, action)
        if done:
            break
    last = _picture(renderer, simulator, start)
    renderer.close()
    return np.stack([*pictures, *[last] * PAUSE])


def film(simulator: Simulator, predictors: Mapping[str, Predictor], path: Path, *, start: int = 0) -> None:
    """Write an MP4 with one rollout of each policy side by side, in the order of `predictors`.

    Raises: ResourceError when this machine cannot render or write films.
    """
    try:
        imageio: Any = importlib.import_module("imageio.v2")
        importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise ResourceError(f'films need imageio ({error}): run pip install "nestling[robot]"') from error
    shots = [frames(simulator, predict, start=start) for predict in predictors.values()]
    length = max(len(shot) for shot in shots)
    padded = [np.concatenate([shot, np.repeat(shot[-1:], length - len(shot), axis=0)]) for shot in shots]
    imageio.mimwrite(path, np.concatenate(padded, axis=2), fps=12, macro_block_size=16, quality=7)


def _picture(renderer: Any, simulator: Simulator, index: int) -> Array:
    environment = simulator.place(index)
    renderer.update_scene(environment.data, camera=CAMERA)
    return renderer.render()[::-1].copy()  # metaworld mounts this camera upside down
