"""After a robot run: a film of the first task with what each strategy knows at the end, strategies side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from nestling.errors import NestlingError, ResourceError
from nestling.learners import file_name, name_of
from nestling.recipes.folder import CONFIG, run_folder
from nestling.recipes.plan import make_plan
from nestling.recipes.run import Run
from nestling.streams.robot import SuccessRate
from nestling.streams.robot_film import film

CAST = ("naive", "continuum")
BACKENDS = ("egl", "osmesa")
SECONDS = 300


def film_in_process(folder: Path) -> None:
    """Make the film of the finished run in `folder` in a process of its own, since a graphics driver may crash.

    Raises: ResourceError when no backend of MuJoCo renders here.
    """
    chosen = os.environ.get("MUJOCO_GL")
    reasons = []
    for backend in [chosen] if chosen else BACKENDS:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "nestling.recipes.film", str(folder)],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode == 0:
            return
        reasons.append(f"{backend}: {(done.stderr.strip().splitlines() or ['crashed'])[-1]}")
    raise ResourceError(f"no film, MuJoCo cannot render here ({'; '.join(reasons)})")


def film_run(folder: Path) -> Path:
    """Film the first task with the strategies of `CAST` that the run in `folder` has finished; the path of the film."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["config"]
    cast = choose_cast(config["strategies"])
    options = {name: value for name, value in config["stream_options"].items() if value is not None}
    plan = make_plan(
        stream=config["stream"],
        options=options,
        strategies=cast,
        seeds=config["seeds"][:1],
        order=config["order"],
        model=None,
        threads=config["threads"],
    )
    stream = plan.stream.arranged(plan.seeds[0], plan.order)
    predictors = {}
    for name in cast:
        run = Run(stream, name, plan.seeds[0], folder=run_folder(folder, name, plan.seeds[0]))
        run.restore()
        predictors[name] = run.strategy.predict
    task = stream.experiences[0].name
    assert isinstance(stream.evaluate, SuccessRate)
    path = folder / f"film-{task}-after-learning-everything-({'-left-'.join(map(file_name, cast))}-right).mp4"
    film(stream.evaluate.simulator(task), predictors, path)
    return path


def choose_cast(labels: list[str]) -> list[str]:
    """The first spec of each strategy of `CAST`, the one without options where it is there; else the first two."""
    plain_first = sorted(labels, key=lambda label: ":" in label)
    found = [[label for label in plain_first if name_of(label) == name][:1] for name in CAST]
    return [label for labels_of_one in found for label in labels_of_one] or labels[:2]


if __name__ == "__main__":
    try:
        film_run(Path(sys.argv[1]))
    except NestlingError as error:
        sys.exit(str(error))
