"""The house: exported names exist, and what README and docs say can be followed, run and found."""

from __future__ import annotations

import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import nestling
from nestling.cli import app
from nestling.learners import STRATEGIES
from nestling.memory import MEMORIES
from nestling.recipes import LearnResult, RunRecord
from nestling.streams import STREAMS

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text()
ROOMS = (
    "layers",
    "learners",
    "memory",
    "metrics",
    "models",
    "models.hope",
    "models.samba",
    "models.nested_lm",
    "models.pretrained",
    "optim",
    "recipes",
    "recipes.bench",
    "recipes.facts",
    "recipes.language",
    "recipes.levels",
    "recipes.suite",
    "rules",
    "streams",
)
FENCE = re.compile(r"(?:^<!-- (?P<mark>[^>]+) -->\n)?^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, kind: str) -> list[tuple[str, str]]:
    """(mark in the comment above, text) of every fenced block of that kind."""
    found = FENCE.finditer(page.read_text())
    return [(match["mark"] or "", match["body"]) for match in found if match["kind"] == kind]


def programs() -> list[Any]:
    """Every python block of every page; a comment `<!-- slow -->` above it marks the test slow."""
    cases = []
    for page in PAGES:
        for number, (mark, body) in enumerate(blocks(page, "python")):
            marks = [pytest.mark.slow] if mark == "slow" else []
            cases.append(pytest.param(body, id=f"{page.name}-{number}", marks=marks))
    return cases


def commands() -> list[str]:
    lines = [line for page in PAGES for _, body in blocks(page, "sh") for line in body.splitlines()]
    return sorted({line.split("#")[0].strip() for line in lines if line.strip()})


def anchors(page: Path) -> set[str]:
    """What `#...` may name on a page: headings as GitHub writes them, and <a id=...>."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


@pytest.mark.parametrize("room", ROOMS)
def test_exported_names_exist(room: str) -> None:
    module = importlib.import_module(f"nestling.{room}")
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_the_package_exports_what_it_names_and_nothing_by_accident() -> None:
    assert sorted(nestling.__all__) == [
        "HopeConfig",
        "HopeForCausalLM",
        "HopeModel",
        "LearnResult",
        "NestedLM",
        "__version__",
        "learn",
        "levels",
        "nest",
    ]
    assert set(nestling.__all__) <= set(dir(nestling))
    assert nestling.learn is importlib.import_module("nestling.recipes").learn
    assert nestling.LearnResult is LearnResult
    assert nestling.levels is importlib.import_module("nestling.recipes.levels").levels
    with pytest.raises(AttributeError, match="lern"):
        _ = nestling.lern  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("program", programs())
def test_the_python_of_the_pages_runs(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "page", "exec"), {"__name__": "page"})  # code of our own pages


@pytest.mark.parametrize("line", commands())
def test_the_commands_of_the_pages_exist(line: str) -> None:
    program, *arguments = shlex.split(line)
    if program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert arguments[0] in targets
        return
    assert program == "nestling"
    name, *options = arguments
    command: Any = get_command(app)
    command.commands[name].make_context(name, options).close()  # raises for an option that does not exist


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        if not link.startswith("http") and not (target.exists() and (not anchor or anchor in anchors(target))):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    assert re.findall(r"\b(?:TODO|FILL|FIXME)\b", page.read_text()) == []


def test_the_readme_names_every_strategy_stream_and_memory() -> None:
    for name in (*STRATEGIES, *STREAMS):
        assert f"\n| `{name}` " in README
    assert [name for name in MEMORIES if f"`{name}`" not in README] == []


def test_the_readme_explains_every_key_of_the_results() -> None:
    described = README.split("## Results")[1].split("\n## ")[0]
    keys = [field.name for kind in (LearnResult, RunRecord) for field in fields(kind)]
    explained_by_place = ("strategy", "seed")
    assert [key for key in keys if f"`{key}`" not in described and key not in explained_by_place] == []


def test_every_result_page_is_in_the_readme() -> None:
    assert [page.name for page in sorted((ROOT / "docs/results").glob("*.md")) if page.name not in README] == []
