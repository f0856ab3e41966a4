"""The folder of a run: what is in it, and whether a plan may go on there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nestling.errors import DataError, InputError
from nestling.learners import file_name
from nestling.recipes.files import UNFINISHED, make_folder, plain_errors, write_atomically
from nestling.recipes.plan import Plan

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
# What a later command may add to; everything else in the configuration must be as it was.
_GROWING = ("strategies", "seeds", "strategy_options")


def run_folder(out: Path, strategy: str, seed: int) -> Path:
    """Where one run keeps its checkpoints."""
    return out / CHECKPOINTS / f"{file_name(strategy)}-seed{seed}"


def open_folder(out: Path, plan: Plan, command: str, *, resume: bool) -> tuple[Plan, str]:
    """Make `out` ready for `plan`.

    A run that is there may get further strategies and seeds: those that were there come first, so that the same
    command gives the same order again, and the configuration is written anew, whole or not at all.

    Returns: the plan in that order, and the command that makes all of it.

    Raises:
        InputError: `out` holds other things, or a run with another configuration, strategy or seed.
        ResourceError: `out` cannot be written.
    """
    make_folder(out)
    with plain_errors("read", out):
        present = [path for path in out.iterdir() if not path.name.endswith(UNFINISHED)]
    if present and not resume:
        raise InputError(
            f"{out} is not empty; add --resume (resume=True) to go on with the run in it, or choose another folder"
        )
    if present and not (out / CONFIG).is_file():
        raise InputError(
            f"{out} is not empty but holds no run of nestling ({CONFIG} is missing); choose another folder"
        )
    if present:
        saved, first_command = _read_config(out / CONFIG)
        _check_same(out, saved, _as_json(plan.config()))
        plan = plan.in_order_of(saved["strategies"], saved["seeds"])
        if len(plan.strategies) == len(saved["strategies"]) and len(plan.seeds) == len(saved["seeds"]):
            return plan, first_command
    content = {"config": plan.config(), "command": command}
    write_atomically(out / CONFIG, json.dumps(content, indent=1, allow_nan=False).encode())
    return plan, command


def _read_config(path: Path) -> tuple[dict[str, Any], str]:
    """Configuration and command. Raises DataError when the file is damaged."""
    try:
        with plain_errors("read", path):
            saved = json.loads(path.read_text(encoding="utf-8"))
        config, command = saved["config"], saved["command"]
        if not all(isinstance(config[key], list) for key in ("strategies", "seeds")):
            raise TypeError("strategies and seeds are not lists")
        if not isinstance(config.get("strategy_options", {}), dict):
            raise TypeError("strategy_options is not an object")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); choose another folder") from error
    return config, command


def _check_same(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises InputError for what differs, and for a strategy or seed that `now` lacks."""
    for key in sorted((before.keys() | now.keys()) - set(_GROWING)):
        _check_equal(out, key, before.get(key), now.get(key))
    options_before, options_now = before.get("strategy_options", {}), now["strategy_options"]
    for label in options_before.keys() & options_now.keys():
        _check_equal(out, f"options of {label!r}", options_before[label], options_now[label])
    for key, what in (("strategies", "strategy"), ("seeds", "seed")):
        missing = [each for each in before[key] if each not in now[key]]
        if missing:
            raise InputError(
                f"cannot resume {out}: it also holds {what} {', '.join(map(str, missing))}; strategies and seeds can "
                "be added to a run, not left out: give that too, or choose another folder"
            )


def _check_equal(out: Path, what: str, before: Any, now: Any) -> None:
    if before != now:
        raise InputError(
            f"cannot resume {out}: {what} was {_short(before)} and is now {_short(now)}; "
            "give the same as before, or choose another folder"
        )


def _as_json(config: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(config))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else text[:97] + "..."
