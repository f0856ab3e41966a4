"""The page holds everything it shows, says the right sentence, and trusts no name."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from written_result import written_result

from nestling.errors import InputError
from nestling.recipes.film import choose_cast
from nestling.recipes.report.figures import experience_labels, matrices, score_range
from nestling.recipes.report.page import headline, report_page
from nestling.recipes.report.table import cost_columns

VOID = {"meta", "img", "br", "path", "use", "rect"}


class Checker(HTMLParser):
    """Tags must close in order; sources and links are collected."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def test_the_page_is_whole_and_loads_nothing() -> None:
    checker = checked(report_page(written_result()))
    assert all(source.startswith(("#", "data:image/png;base64,")) for source in checker.sources)
    assert "script" not in checker.tags
    assert "link" not in checker.tags
    assert "@import" not in report_page(written_result())


def test_names_cannot_become_markup() -> None:
    page = report_page(written_result())
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;b&gt;ours&lt;/b&gt;" in page
    assert "a &amp; b" in page


def test_ids_are_used_once() -> None:
    ids = re.findall(r'\bid="([^"]+)"', report_page(written_result()))
    assert len(ids) == len(set(ids))


def test_the_figures_stand_in_the_page() -> None:
    page = report_page(written_result())
    assert "85.0 ± 7.1" not in page
    assert "87.5 ± 3.5" in page  # ours: (0.9 + 0.85) / 2, |0.9 - 0.85| / sqrt 2
    assert "5.0 ± 7.1" in page  # its forgetting: 0 and 0.1
    assert "1 kB" in page
    assert "a processor" in page
    assert "nestling learn --stream" in page


def test_the_headline_names_the_best_and_the_references() -> None:
    assert headline(written_result()) == (
        "After 2 experiences in turn, <b>ours</b> scores 87.5 % accuracy over all of them, storing no examples; "
        "plain fine-tuning (naive) scores 52.5 % and learning everything at once (joint) scores 95.0 %."
    )
    bits = written_result("bits per byte", higher_is_better=False)
    assert headline(bits).startswith("After 2 experiences in turn, naive scores 0.53 bits per byte over all of them")


def test_an_unfinished_result_says_so() -> None:
    result = written_result()
    assert "class=warning" not in report_page(result)
    page = report_page(replace(result, runs=result.runs[:5], complete=False))
    assert "1 run(s) are still missing" in page


def test_films_are_put_into_the_page(tmp_path: Path) -> None:
    (tmp_path / "film-naive beside <continuum>.mp4").write_bytes(b"0000")
    (tmp_path / "film.gif").write_bytes(b"GIF89a")
    (tmp_path / "other.gif").write_bytes(b"GIF89a")
    checker = checked(report_page(written_result(), tmp_path))
    films = [source for source in checker.sources if not source.startswith(("#", "data:image/png"))]
    assert films == ["data:video/mp4;base64,MDAwMA==", "data:image/gif;base64,R0lGODlh"]


def test_matrices_are_averaged_over_seeds() -> None:
    mean = matrices(written_result(), "naive").mean(axis=0)
    assert mean.ravel().tolist() == pytest.approx([0.8, 0.0, 0.2, 0.85])


def test_runs_in_different_orders_are_labelled_by_time() -> None:
    result = written_result()
    assert experience_labels(result) == ["first <i>task</\u2026", "second"]
    turned = replace(result.runs[1], experiences=result.runs[1].experiences[::-1])
    assert experience_labels(replace(result, runs=[result.runs[0], turned])) == ["#1", "#2"]


def test_colours_cover_what_was_learned() -> None:
    assert score_range(written_result()) == (0.0, 1.0)
    assert score_range(written_result("bits per byte", higher_is_better=False)) == (0.1, 0.95)


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_plot_writes_an_image(tmp_path: Path, name: str, start: bytes) -> None:
    path = written_result().plot(tmp_path / name)
    assert path.read_bytes().startswith(start)


def test_plot_refuses_other_endings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.png"):
        written_result().plot(tmp_path / "a.docx")


def test_variants_of_joint_are_references_too() -> None:
    result = written_result()
    turned = [replace(row, strategy=row.strategy.replace("joint", "joint:num_copies=3")) for row in result.summary]
    assert headline(replace(result, summary=turned)).startswith("After 2 experiences in turn, <b>ours</b> scores 87.5")


def test_parameters_are_compared_with_those_of_continuum() -> None:
    result = written_result()
    names = {"<b>ours</b>": "continuum", "naive": "naive:num_copies=3"}
    rows = [replace(row, strategy=names.get(row.strategy, row.strategy)) for row in result.summary]
    rows[0] = replace(rows[0], num_parameters=1357)
    columns = {column.head: column.cells for column in cost_columns(replace(result, summary=rows))}
    assert columns["parameters"] == ("1,357", "1,234", "1,234")
    assert columns["parameters / continuum"] == ("1.1", "1", "1")
    assert "parameters / continuum" not in {column.head for column in cost_columns(result)}
    assert "1,357" in replace(result, summary=rows).table()


def test_the_film_shows_naive_and_continuum_without_options_where_it_can() -> None:
    assert choose_cast(["replay", "continuum", "naive:num_copies=2", "naive"]) == ["naive", "continuum"]
    assert choose_cast(["naive:num_copies=2", "joint"]) == ["naive:num_copies=2"]
    assert choose_cast(["joint", "ewc", "lwf"]) == ["joint", "ewc"]


def test_the_table_lines_up() -> None:
    lines = written_result().table().splitlines()
    assert lines[0].split("  ")[0] == "strategy"
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 2 + 3
    assert "52.5 ± 10.6" in lines[2]
