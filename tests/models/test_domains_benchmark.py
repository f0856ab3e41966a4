"""The benchmark of domains on a tiny model: parts do not overlap, arms differ as they must, nothing is run twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_language_models import language_model, tokenizer

from nestling.errors import DataError, InputError, ResourceError, UnknownNameError
from nestling.recipes.domains import ARMS, Domain, DomainsPlan, DomainsResult, draw, find_domains, markdown, run_domains
from nestling.recipes.domains.texts import num_bytes, parts

SENTENCES = {
    "es_don_quijote": "el perro come pan y la luna brilla sobre el molino.\n",
    "fr_candide": "le chat boit du lait sous la table de la cuisine.\n",
    "en_moby_dick": "the whale swims far away from land and sleeps.\n",
    "en_war_and_peace": "the prince walks slowly home through the snow.\n",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "books").mkdir(parents=True)
    for name, sentence in SENTENCES.items():
        (folder / "books" / f"{name}.txt").write_text(sentence * 400)
    for name in ("kalamang", "daakaka"):
        (folder / name).mkdir()
        (folder / name / "sentences.tsv").write_text("a\tb\n" + f"{name} mu owatko parua\tthey pluck\n" * 400)
    return folder


def test_what_is_asked_was_not_read_and_is_the_same_for_all_seeds() -> None:
    text = "".join(f"line {number}\n" for number in range(4000))
    domain = Domain("lines", text)
    seen = [parts(domain, lambda part: list(part.encode()), read=900, held_out=512, seed=seed) for seed in range(4)]
    assert len({tuple(run) for run, _, _ in seen}) == 4
    for run, validation, test in seen:
        assert len(run) == 900
        assert (validation, test) == (seen[0][1], seen[0][2])
        assert [len(each) for each in test] == [256, 256]
        for part, low, high in ((run, 0.0, 0.6), (validation[0], 0.6, 0.75), (test[0], 0.75, 1.0)):
            start = text.index(bytes(part).decode())
            assert low * len(text) <= start < start + len(part) <= high * len(text)
    assert num_bytes([[104, 195, 164]], lambda ids: bytes(ids).decode()) == 2


def test_missing_data_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NESTLING_DATA", raising=False)
    with pytest.raises(ResourceError, match="NESTLING_DATA"):
        find_domains(None)
    (data / "kalamang" / "sentences.tsv").unlink()
    with pytest.raises(DataError, match=r"sentences\.tsv"):
        find_domains(data)


def test_figures_of_a_matrix_are_those_worked_out_by_hand() -> None:
    result = DomainsResult("x", 0, ["a", "b", "c"], [4.0, 5.0, 6.0], [[3.0], [3.5, 4.0], [3.25, 4.5, 5.5]])
    assert result.forgetting == pytest.approx((0.25 + 0.5) / 2)
    assert result.gain == pytest.approx((1.0 + 1.0 + 0.5) / 3)
    assert result.kept == pytest.approx((0.75 + 0.5 + 0.5) / 3)


def test_arms_read_and_a_finished_one_is_not_run_again(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    language_model().save_pretrained(tmp_path / "tiny")
    tokenizer().save_pretrained(tmp_path / "tiny")
    plan = DomainsPlan(
        model=str(tmp_path / "tiny"),
        arms=("untouched", "levels", "finetuning", "replay"),
        read=513,
        held_out=256,
        num_domains=3,
        data=str(data),
    )
    lines: list[str] = []
    nothing, ours, tuned, replay = run_domains(plan, tmp_path / "out", lines.append)
    assert nothing.matrix[2] == pytest.approx(nothing.before, abs=1e-9)
    assert (nothing.gain, nothing.forgetting, nothing.num_bytes) == (pytest.approx(0, abs=1e-9),) * 2 + (0,)
    assert ours.order == tuned.order == replay.order
    assert ours.gain > 1.0
    assert ours.num_bytes > 0
    assert tuned.matrix[0] == replay.matrix[0] != tuned.before[:1]
    assert tuned.matrix[1] != replay.matrix[1]
    assert len(lines) == 12
    for name in ARMS:
        monkeypatch.setitem(ARMS, name, lambda *_: pytest.fail("it was run again"))
    again = run_domains(plan, tmp_path / "out", lines.append)
    assert again == [nothing, ours, tuned, replay]
    assert markdown(again).splitlines()[3].startswith("| levels | 1 | +")
    draw(again, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
    (tmp_path / "out" / "levels-3-513-256-seed0.json").write_text("{}")
    with pytest.raises(DataError, match="no result"):
        run_domains(plan, tmp_path / "out", lines.append)


def test_plans_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="levels"):
        DomainsPlan(model="x", arms=("level",))
    with pytest.raises(InputError):
        DomainsPlan(model="x", arms=("levels",), read=3)
