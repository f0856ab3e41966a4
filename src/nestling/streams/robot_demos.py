"""Demonstrations of metaworld's scripted experts: recorded once, cached, checked when read."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import os
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestling.errors import DataError, InputError, ResourceError
from nestling.streams.robot_simulator import ACTION_SIZE, HORIZON, Simulator, draw_starts, load_metaworld

Array = NDArray[Any]
Report = Callable[[str, int, int], None]
"""Progress for people: what is being done, how many are done, how many there are."""

NUM_TRAIN_STARTS = 25
NUM_TEST_EPISODES = 5
_ATTEMPTS = 8
_FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Demonstrations:
    """How demonstrations are recorded.

    num:    episodes for training, at least 1; they start from the first 25 starting states in turn.
    seed:   of the noise; the starting states are always those of metaworld's MT1 with seed 0.
    noise:  standard deviation of the Gaussian noise added to the expert's action before it is applied, in units of
            the action range [-1, 1]. The recorded target is the action without noise: the states are those of
            a clumsy hand, the answers those of the expert, so that a policy learns to recover (DART, arXiv 1703.09327).
    smoothness: correlation of the noise from one step to the next, in [0, 1). White noise (0) cancels itself within a
            few steps; smooth noise pushes the hand off its way by centimetres, as a learner's own errors do.
    tail:   steps recorded after the task is done.
    """

    num: int = 25
    seed: int = 0
    noise: float = 0.5
    smoothness: float = 0.9
    tail: int = 0

    def __post_init__(self) -> None:
        if self.num < 1:
            raise InputError(f"num_demos must be at least 1, got {self.num}")
        if self.noise < 0 or self.tail < 0 or not 0 <= self.smoothness < 1:
            raise InputError(
                f"expected noise and tail >= 0 and smoothness in [0, 1), got {self.noise}, {self.tail} and "
                f"{self.smoothness}"
            )


def cache_folder(given: Path | str | None = None) -> Path:
    """Where demonstrations are kept: `given`, else $NESTLING_CACHE, else the user's cache folder for nestling."""
    if given is not None:
        return Path(given)
    if named := os.environ.get("NESTLING_CACHE"):
        return Path(named)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "nestling"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "nestling"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "nestling"
    return Path.home() / ".cache" / "nestling"


def demonstrations(task: str, how: Demonstrations, *, cache_dir: Path | str | None, report: Report) -> dict[str, Array]:
    """The demonstrations of one task, from the cache or recorded now.

    Returns: `train_x` [N, 39], `train_y` [N, 4], `test_x`, `test_y` float32, and the starting states of rollouts,
        `test_starts` [25, D] float64.
    Raises: ResourceError when metaworld is missing or the cache cannot be written; DataError when the expert fails.
    """
    path = cache_folder(cache_dir) / "robot" / f"{task}-{_key(task, how)}.npz"
    if path.exists():
        found = _read(path)
        if found is not None:
            return found
        report(f"{path} is damaged; recording {task} again", 0, how.num)
    made = record(task, how, report=report)
    _write(path, made)
    return made


def record(task: str, how: Demonstrations, *, report: Report) -> dict[str, Array]:
    """Record the demonstrations of one task in the simulator (a few seconds)."""
    starts = draw_starts(task, seed=0)
    expert = importlib.import_module("metaworld.policies").ENV_POLICY_MAP[task]()
    simulator = Simulator(task, starts[: NUM_TRAIN_STARTS + NUM_TEST_EPISODES])
    train, test = [], []
    for episode in range(how.num + NUM_TEST_EPISODES):
        report(f"recording {task}", min(episode, how.num), how.num)
        is_train = episode < how.num
        start = episode % NUM_TRAIN_STARTS if is_train else NUM_TRAIN_STARTS + episode - how.num
        pairs = _successful_episode(simulator, expert, start, how, episode)
        (train if is_train else test).append(pairs)
    report(f"recording {task}", how.num, how.num)
    train_x, train_y = (np.concatenate(part) for part in zip(*train, strict=True))
    test_x, test_y = (np.concatenate(part) for part in zip(*test, strict=True))
    return {
        "train_x": train_x,
        "train_y": train_y,
        "test_x": test_x,
        "test_y": test_y,
        "test_starts": starts[NUM_TRAIN_STARTS : 2 * NUM_TRAIN_STARTS],
    }


def _successful_episode(
    simulator: Simulator, expert: Any, start: int, how: Demonstrations, episode: int
) -> tuple[Array, Array]:
    for attempt in range(_ATTEMPTS):
        generator = np.random.default_rng([how.seed, zlib.crc32(simulator.task.encode()), episode, attempt])
        noise = how.noise * (1 - attempt / _ATTEMPTS)
        pushes = noise * _smooth_noise(how.smoothness, generator)
        observations, actions, done = _episode(simulator, expert, start, pushes, how.tail)
        if done:
            return np.array(observations, np.float32), np.array(actions, np.float32)
    raise DataError(
        f"the scripted expert for {simulator.task} failed {_ATTEMPTS} times from one starting state with noise up to "
        f"{how.noise}: lower the noise or leave the task out"
    )


def _episode(
    simulator: Simulator, expert: Any, start: int, pushes: Array, tail: int
) -> tuple[list[Array], list[Array], bool]:
    observation = simulator.restore(start)
    observations, actions, was_done, stop = [], [], False, HORIZON
    while len(actions) < stop:
        action = expert_action(expert, observation)
        observations.append(observation)
        actions.append(action)
        applied = np.clip(action + pushes[len(actions) - 1], -1.0, 1.0)
        observation, is_done = simulator.step(start, applied)
        if is_done and not was_done:
            was_done, stop = True, min(HORIZON, len(actions) + tail)
    return observations, actions, was_done


def _smooth_noise(smoothness: float, generator: np.random.Generator) -> Array:
    """[HORIZON, 4] numbers of variance 1: n_t = c n_{t-1} + sqrt(1 - c^2) e_t with c the smoothness."""
    white = generator.standard_normal((HORIZON, ACTION_SIZE))
    smooth = white.copy()
    for step in range(1, HORIZON):
        smooth[step] = smoothness * smooth[step - 1] + (1 - smoothness**2) ** 0.5 * white[step]
    return smooth


def expert_action(expert: Any, observation: Array) -> Array:
    """The scripted expert's action [4], clipped to [-1, 1], for an observation [39] float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # metaworld warns whenever an action will be clipped
        return np.clip(expert.get_action(observation), -1.0, 1.0)


def _key(task: str, how: Demonstrations) -> str:
    versions = (importlib.import_module("importlib.metadata").version(name) for name in ("metaworld", "mujoco"))
    load_metaworld()
    text = repr((_FORMAT, task, sorted(asdict(how).items()), *versions))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _digest(arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}{value.shape}{value.dtype}".encode() + value.tobytes())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Array] | None:
    """The arrays of a cache file, or None when it is truncated or altered."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception:  # a damaged zip raises many types
        return None
    return arrays if str(arrays.pop("digest", "")) == _digest(arrays) else None


def _write(path: Path, arrays: Mapping[str, Array]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stored: dict[str, Any] = {"digest": np.array(_digest(arrays)), **arrays}
        np.savez_compressed(partial, **stored)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise ResourceError(
            f"cannot write demonstrations to {path.parent} ({error}): free some space, or point NESTLING_CACHE to a "
            "folder that can be written"
        ) from error
