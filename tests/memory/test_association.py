"""Two keys at once: worked by hand."""

from __future__ import annotations

import pytest
import torch

from nestling.memory.association import ASK, RAW, Association, AssociationTable, Form, Thresholds

X, Y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
DIAGONAL = torch.tensor([0.6, 0.8])
TAU = Thresholds(who=0.5, same=0.5, cross=0.2, piece=0.3)


def association(who: list[torch.Tensor], what: list[torch.Tensor], frames: tuple[int, ...]) -> Association:
    form = Form(torch.zeros(1, 2), torch.zeros(0, 2))
    return Association(torch.stack(who), torch.stack(what), frames, torch.zeros_like(what[0]), (form, form))


def table() -> AssociationTable:
    return AssociationTable([association([X], [Y], (ASK,)), association([X, Y], [X, Y], (ASK, RAW))], TAU)


def test_a_subject_is_heard_when_all_its_words_were() -> None:
    early = torch.stack([X, DIAGONAL, Y])[None]
    heard = table().heard(early, None)
    assert torch.allclose(heard[0], torch.tensor([[1, 1, 0], [1, 1, 0.8], [1, 1, 1.0]]))
    assert torch.allclose(table().subjects(heard)[0], torch.tensor([[1, 0.5], [1, 0.9], [1, 1.0]]))


def test_a_text_in_pieces_is_heard_like_the_whole() -> None:
    early = torch.nn.functional.normalize(torch.randn(2, 9, 2, generator=torch.Generator().manual_seed(0)), dim=-1)
    whole = table().heard(early, None)
    first = table().heard(early[:, :4], None)
    assert torch.allclose(torch.cat([first, table().heard(early[:, 4:], first[:, -1])], dim=1), whole)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        # <Y, d> = 0.8, <X, d> = 0.6; limits 0.5 within a frame and 0.2 between frames; subjects 1 and 0.75
        (ASK, [(0.8 - 0.5) / 0.5, (0.6 - 0.5) / 0.5 * 0.5, 0.0]),  # a second place key opens in its own frame only
        (RAW, [(0.8 - 0.2) / 0.8, (0.6 - 0.2) / 0.8 * 0.5, (0.8 - 0.5) / 0.5 * 0.5]),
    ],
)
def test_scores_are_products_of_what_exceeds_the_limits(frame: int, expected: list[float]) -> None:
    subjects = torch.tensor([[[1.0, 0.75]]])
    scores = table().scores(subjects, DIAGONAL[None, None], torch.tensor([[frame]]))
    assert torch.allclose(scores[0, 0], torch.tensor(expected), atol=1e-6)


def test_nothing_opens_below_the_limits_and_only_a_taught_place_scores_one() -> None:
    made = table()
    assert not made.scores(torch.tensor([[[0.5, 0.4]]]), Y[None, None], torch.tensor([[ASK]])).any()
    taught = made.scores(torch.tensor([[[1.0, 1.0]]]), Y[None, None], torch.tensor([[ASK]]))[0, 0]
    assert torch.allclose(taught, torch.tensor([1.0, 0.0, 0.0]))


def test_what_any_question_about_the_subject_shares_does_not_count() -> None:
    about, asked, other = torch.eye(3)
    form = Form(torch.zeros(1, 3), torch.zeros(0, 3))
    taught = torch.nn.functional.normalize(about + asked, dim=0)
    beside = torch.nn.functional.normalize(about + other, dim=0)
    late = torch.stack([taught, beside, asked])[None]
    frames, subjects = torch.full((1, 3), ASK), torch.ones(1, 3, 1)
    tau = Thresholds(who=0.5, same=0.25, cross=0.2, piece=0.3)
    for direction, expected in ((torch.zeros(3), [1, 1 / 3, (0.5**0.5 - 0.25) / 0.75]), (about, [1, 0, 1])):
        made = AssociationTable([Association(asked[None], taught[None], (ASK,), direction, (form, form))], tau)
        found = made.scores(subjects, late, frames)[0, :, 0]
        assert torch.allclose(found, torch.tensor(expected, dtype=torch.float32), atol=1e-6)


def test_a_place_opens_its_own_form_in_its_own_frame() -> None:
    made = table()
    assert [made.form(row, frame) for row in range(3) for frame in (ASK, RAW)] == [0, RAW, 0, RAW, ASK, 1]
