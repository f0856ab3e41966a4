"""A training of seconds, for the tests of this folder."""

from pathlib import Path

from safetensors.torch import load_file

from nestling.recipes.language import Recipe, make_recipe
from nestling.recipes.language.log import read_log

TEXT = "".join(f"{n} green bottles hanging on the wall, and {n - 1} more.\n" for n in range(200, 0, -1))
LEVELS = {"update_periods": [8, 16]}


def write_text(folder: Path) -> str:
    path = folder / "song.txt"
    path.write_text(TEXT)
    return str(path)


def tiny_recipe(data: str, **changes) -> Recipe:
    given = {
        "model": "hope",
        "steps": 6,
        "length": 24,
        "batch_size": 2,
        "lr": 3e-3,
        "options": LEVELS,
        "evaluate_rows": 4,
        "seed": 7,
    }
    return make_recipe(data=data, size="tiny", **{**given, **changes})


def weights(folder: Path) -> dict:
    return load_file(folder / "model.safetensors")


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_log(out) if "loss" in row]
