"""The robot stream: physics against metaworld, independent rollouts, demonstrations and their cache, bad input."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from nestling.errors import DataError, InputError, ResourceError, UnknownNameError
from nestling.streams import robot, robot_demos, robot_simulator
from nestling.streams.base import Stream
from nestling.streams.robot import RobotPolicy, SuccessRate, robot_stream
from nestling.streams.robot_demos import Demonstrations, cache_folder, demonstrations, expert_action
from nestling.streams.robot_physics import TASKS, quaternion
from nestling.streams.robot_simulator import Simulator, act, make_environment, reset

METAWORLD = importlib.util.find_spec("metaworld") is not None
needs_metaworld = pytest.mark.skipif(not METAWORLD, reason="metaworld is an optional extra that is not installed")
MUG, BALL = "coffee-pull-v3", "soccer-v3"


def _expert(task: str):
    return importlib.import_module("metaworld.policies").ENV_POLICY_MAP[task]()


def _silent(_what: str, _done: int, _total: int) -> None:
    return


def _drawn_starts(task: str, count: int) -> np.ndarray:
    """Random starting states without the fifty resets of `draw_starts`."""
    environment = make_environment(task)
    environment._freeze_rand_vec, environment._set_task_called = False, True
    environment.seeded_rand_vec = True
    environment.seed(3)
    starts = []
    for _ in range(count):
        environment.reset()
        starts.append(environment._last_rand_vec.copy())
    return np.stack(starts)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("robot_cache")


@pytest.fixture(scope="session")
def stream(cache: Path) -> Stream:
    return robot_stream(tasks=[MUG, BALL], num_demos=2, rollouts=2, cache_dir=cache)


@needs_metaworld
@pytest.mark.parametrize("task", TASKS)
def test_step_equals_metaworlds_own_step(task: str) -> None:
    start = _drawn_starts(task, 1)
    simulator, plain, expert = Simulator(task, start), make_environment(task), _expert(task)
    expected, observation = reset(plain, task, start[0]), simulator.restore(0)
    generator = np.random.default_rng(0)
    was_done = False
    np.testing.assert_allclose(observation, expected, rtol=0, atol=1e-12)
    for moment in range(130):
        noise = generator.standard_normal(4) * (1.0 if moment % 20 < 4 else 0.05)
        action = np.clip(expert_action(expert, expected) + noise, -1.0, 1.0)
        expected, _, _, _, info = plain.step(action)
        observation, done = simulator.step(0, action)
        np.testing.assert_allclose(observation, expected, rtol=0, atol=1e-12, err_msg=f"step {moment}")
        assert done == (info["success"] > 0), f"step {moment}"
        was_done |= done
    assert was_done  # otherwise the comparison of `done` would show nothing


@needs_metaworld
def test_rollouts_do_not_depend_on_earlier_ones() -> None:
    simulator = Simulator("door-close-v3", _drawn_starts("door-close-v3", 2))
    actions = np.random.default_rng(1).uniform(-1, 1, (40, 4))

    def rollout(index: int) -> np.ndarray:
        simulator.restore(index)
        return np.stack([simulator.step(index, action)[0] for action in actions])

    first = rollout(0)
    rollout(1)
    simulator.restore(1)
    simulator.step(1, actions[0])
    np.testing.assert_array_equal(rollout(0), first)


@needs_metaworld
def test_each_rollout_has_its_own_scene_though_the_model_is_shared() -> None:
    task = "drawer-open-v3"  # its drawer is moved in the compiled model
    starts = _drawn_starts(task, 2)
    shared = Simulator(task, starts)
    alone = [Simulator(task, starts[index : index + 1]) for index in range(2)]
    observations = [shared.restore(index) for index in range(2)]
    for single in alone:
        single.restore(0)
    action = np.array([0.0, 1.0, -1.0, 0.0])
    for _ in range(10):
        observations = [shared.step(index, action)[0] for index in range(2)]
        expected = [single.step(0, action)[0] for single in alone]
    np.testing.assert_allclose(observations, expected, rtol=0, atol=1e-9)
    assert np.abs(observations[0] - observations[1])[4:7].max() > 1e-3


@needs_metaworld
def test_rollouts_stepped_together_equal_rollouts_one_by_one() -> None:
    starts = _drawn_starts(MUG, 2)
    together, expert = Simulator(MUG, starts), _expert(MUG)

    def policy(inputs: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.stack([expert_action(expert, row) for row in inputs.double().numpy()]))

    singles = [Simulator(MUG, starts[index : index + 1]).success_rate(policy) for index in range(2)]
    assert together.success_rate(policy) == sum(singles) / 2 == 1.0
    assert together.success_rate(lambda inputs: torch.zeros(len(inputs), 4)) == 0.0
    assert together.success_rate(policy, horizon=5) == 0.0


@needs_metaworld
def test_a_task_without_a_shortcut_is_stepped_by_metaworld() -> None:
    task = "button-press-v3"
    assert task not in TASKS
    simulator, expert = Simulator(task, _drawn_starts(task, 1)), _expert(task)
    observation, done = simulator.restore(0), False
    for _ in range(100):
        observation, done = simulator.step(0, expert_action(expert, observation))
        if done:
            break
    assert done


def test_quaternion_equals_scipys() -> None:
    matrices = Rotation.random(200, rng=np.random.default_rng(0)).as_matrix()
    turned = [np.diag(signs) for signs in ([1.0, -1, -1], [-1.0, 1, -1], [-1.0, -1, 1], [1.0, 1, 1])]
    for matrix in [*matrices, *turned]:
        expected = Rotation.from_matrix(matrix).as_quat()
        np.testing.assert_allclose(quaternion(matrix.ravel().tolist()), expected, rtol=0, atol=1e-12)


@needs_metaworld
def test_stream_holds_what_it_says(stream: Stream) -> None:
    assert [experience.name for experience in stream.experiences] == [MUG, BALL]
    assert (stream.problem.kind, stream.problem.input_shape, stream.num_outputs) == ("regression", (39,), 4)
    assert stream.higher_is_better
    for experience in stream.experiences:
        assert experience.train.inputs.dtype == experience.train.targets.dtype == torch.float32
        assert experience.train.targets.abs().max() <= 1
        assert not torch.equal(experience.train.inputs[0], experience.test.inputs[0])


@needs_metaworld
def test_targets_are_the_experts_answers_without_noise(stream: Stream) -> None:
    part, expert = stream.experiences[0].train, _expert(MUG)
    expected = np.stack([expert_action(expert, row) for row in part.inputs.double().numpy()])
    # float32 observations flip the expert's thresholds on rare rows
    agrees = np.isclose(part.targets.numpy(), expected, atol=1e-3).all(axis=1)
    assert agrees.mean() > 0.97


@needs_metaworld
def test_score_is_the_same_again_and_between_builds(stream: Stream) -> None:
    torch.manual_seed(0)
    policy, mug = stream.make_model(), stream.experiences[0]
    with torch.no_grad():
        policy.layers[-1].bias.copy_(torch.tensor([0.0, 0.8, -0.3, 0.5]))
    scores = {stream.evaluate(policy, mug) for _ in range(2)}
    rebuilt = SuccessRate(stream.evaluate.starts)  # type: ignore[attr-defined]
    assert scores == {rebuilt(policy, mug)}


@needs_metaworld
def test_recording_is_determined_by_its_seed(cache: Path, tmp_path: Path, stream: Stream) -> None:
    how = Demonstrations(num=2)
    again = demonstrations(BALL, how, cache_dir=tmp_path, report=_silent)
    np.testing.assert_array_equal(again["train_x"], stream.experiences[1].train.inputs.numpy())
    train_start = again["train_x"][0, 4:7]
    assert not np.isclose(again["test_starts"][:, :3], train_start, atol=1e-6).all(axis=1).any()


@needs_metaworld
@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_damaged_cache_is_noticed_and_recorded_again(
    damage: str, cache: Path, tmp_path: Path, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stream.experiences
    (source,) = (cache / "robot").glob(f"{BALL}-*.npz")
    target = tmp_path / "robot" / source.name
    target.parent.mkdir()
    if damage == "truncated":
        target.write_bytes(source.read_bytes()[:-300])
    else:
        with np.load(source) as stored:
            arrays = dict(stored)
        arrays["train_y"][0, 0] += 0.5
        np.savez(target, **arrays)
    fresh = {"train_x": np.zeros((1, 39), np.float32)}
    monkeypatch.setattr(robot_demos, "record", lambda *_args, **_kwargs: fresh)
    said: list[str] = []
    found = demonstrations(BALL, Demonstrations(num=2), cache_dir=tmp_path, report=lambda what, *_: said.append(what))
    assert found is fresh
    assert "damaged" in said[0]
    monkeypatch.setattr(robot_demos, "record", lambda *_args, **_kwargs: pytest.fail("the cache was not read"))
    reread = demonstrations(BALL, Demonstrations(num=2), cache_dir=tmp_path, report=_silent)
    np.testing.assert_array_equal(reread["train_x"], fresh["train_x"])
    assert [path.suffix for path in target.parent.iterdir()] == [".npz"]


@needs_metaworld
def test_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot_demos, "record", lambda *_args, **_kwargs: {"train_x": np.zeros(1)})
    (tmp_path / "robot").write_text("a file where the folder should be")
    with pytest.raises(ResourceError, match="NESTLING_CACHE"):
        demonstrations(MUG, Demonstrations(), cache_dir=tmp_path, report=_silent)


@needs_metaworld
def test_expert_that_always_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = Simulator("reach-v3", _drawn_starts("reach-v3", 1))
    monkeypatch.setattr(robot_demos, "HORIZON", 3)
    with pytest.raises(DataError, match="reach-v3 failed 8 times"):
        robot_demos._successful_episode(simulator, _expert("reach-v3"), 0, Demonstrations(), 0)


@needs_metaworld
def test_starting_states_are_those_of_metaworlds_benchmark(stream: Stream, cache: Path) -> None:
    assert stream.experiences
    task = importlib.import_module("metaworld").MT1(BALL, seed=0).train_tasks[30]
    environment = make_environment(BALL)
    environment.set_task(task)
    expected, _ = environment.reset()
    recorded = demonstrations(BALL, Demonstrations(num=2), cache_dir=cache, report=_silent)
    start = recorded["test_starts"][5]
    np.testing.assert_array_equal(reset(make_environment(BALL), BALL, start), expected)
    validation = robot._starts(BALL, "validation", recorded)
    assert len(validation) == len(recorded["test_starts"]) == 25
    assert not np.isin(validation[:, 0], recorded["test_starts"][:, 0]).any()


def test_smooth_noise_has_unit_variance_and_the_stated_correlation() -> None:
    generator = np.random.default_rng(0)
    noise = np.concatenate([robot_demos._smooth_noise(0.9, generator)[None] for _ in range(200)])
    assert noise.std() == pytest.approx(1.0, abs=0.03)
    neighbours = np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]
    assert neighbours == pytest.approx(0.9, abs=0.01)


def test_actions_are_clipped() -> None:
    actions = act(lambda inputs: torch.full((len(inputs), 4), 7.0), np.zeros((3, 39)), MUG)
    np.testing.assert_array_equal(actions, np.ones((3, 4)))


@pytest.mark.parametrize("outputs", [torch.zeros(3, 5), torch.zeros(3), torch.zeros(2, 4)])
def test_policy_of_the_wrong_width_is_refused(outputs: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"expected \[3, 4\]"):
        act(lambda _inputs: outputs, np.zeros((3, 39)), MUG)


def test_policy_that_diverged_is_refused() -> None:
    with pytest.raises(InputError, match="not finite"):
        act(lambda inputs: torch.full((len(inputs), 4), math.nan), np.zeros((3, 39)), MUG)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_tasks": 1}, "num_tasks must be 2 to 10"),
        ({"num_tasks": 11}, "num_tasks must be 2 to 10"),
        ({"rollouts": 0}, "rollouts must be 1 to 25"),
        ({"rollouts": 26}, "rollouts must be 1 to 25"),
        ({"num_demos": 0}, "num_demos must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        robot_stream(**options)  # type: ignore[arg-type]


@needs_metaworld
def test_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'soccer-v3'"):
        robot_stream(tasks=["soccer", MUG])
    with pytest.raises(InputError, match="may appear once"):
        robot_stream(tasks=[MUG, MUG])


def test_missing_metaworld_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(robot_simulator.importlib, "import_module", absent)
    with pytest.raises(ResourceError, match=r"nestling\[robot\]"):
        robot_stream(num_tasks=2, cache_dir=tmp_path)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("NESTLING_CACHE", raising=False)
    assert cache_folder() == tmp_path / "xdg" / "nestling"
    monkeypatch.setenv("NESTLING_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    assert cache_folder(tmp_path) == tmp_path


def test_policy_is_a_network_of_the_stated_shape() -> None:
    policy = RobotPolicy(width=8)
    inputs = torch.randn(5, 39)
    hidden = inputs * 10
    for layer in policy.layers:
        hidden = layer(hidden)
    assert torch.equal(policy(inputs), hidden)
    assert sum(parameter.numel() for parameter in RobotPolicy().parameters()) == 39 * 256 + 256 + 256 * 257 + 4 * 257
