"""A memory that opens on two keys at once: whom a text speaks of, and what it is about to say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["ASK", "RAW", "Association", "AssociationTable", "Form", "Thresholds"]

ASK, RAW = 0, 1  # frames: the place where an answer to a question begins, and any other place in a text


@dataclass(frozen=True)
class Form:
    """One way to write an answer, token by token.

    Args: values: [P, D], the correction that makes token p the most probable one.   pieces: [P - 1, W] unit early
        keys of the answer's tokens but the last: token p is written where token p - 1 is recognised.
    """

    values: Tensor
    pieces: Tensor


@dataclass(frozen=True)
class Association:
    """One stored pair.

    Args: who: [M, W] unit early keys of the words that name the subject.   what: [R, D] unit late keys of the places
        where the answer begins.   frames: the frame of each `what`.   about: [D], the late direction of any
        question about this subject, unit or zero.   forms: the answer as it is written in frame ASK
        and in frame RAW.
    """

    who: Tensor
    what: Tensor
    frames: tuple[int, ...]
    about: Tensor
    forms: tuple[Form, Form]

    def to(self, device: torch.device) -> Association:
        """The same on another device."""
        forms = [Form(form.values.to(device), form.pieces.to(device)) for form in self.forms]
        who, what, about = (part.to(device) for part in (self.who, self.what, self.about))
        return Association(who, what, self.frames, about, (forms[0], forms[1]))

    def tensors(self) -> list[Tensor]:
        """All of it, in a fixed order."""
        return [
            self.who,
            self.what,
            self.about,
            *(tensor for form in self.forms for tensor in (form.values, form.pieces)),
        ]


@dataclass(frozen=True)
class Thresholds:
    """What must be exceeded for a pair to open, measured once for a model (`frames.calibrate`); cosines.

    Args: who: of the subject.   same, cross: of places in one frame, and in two.   piece: of the answer's tokens.
    """

    who: float
    same: float
    cross: float
    piece: float


class AssociationTable:
    """Many associations stacked for reading.

    s_n(t) = mean_m max_{j <= t} <who_nm, e_j>                      has its subject been spoken of?
    a_r(t) = cos(P_n what_r, P_n u_t),  P_n = I - about_n about_n^T  is this the place for its answer?
    score  = [s_n - tau_s]_+ / (1 - tau_s)  [a_r - tau_a]_+ / (1 - tau_a)

    The pair of the highest positive score opens at t; where none is positive nothing is added and the model is as it
    was, bit for bit. P_n takes out what every question about this subject has in common: without it, other questions
    about the subject are nearer than other wordings. A second place key of a pair opens in its own frame only. Both
    keys of a stored pair are 1 at the place it was taught, which no other pair can exceed.

    Source: a non-parametric memory, NL eq. 62-63, with the product of two kernels; late interaction (the mean of
        maxima) as in ColBERT, Khattab & Zaharia 2020; keys at the subject's tokens as in ROME, Meng et al. 2022.

    Args: associations: in the order they were taught.   thresholds: of the model.
    """

    def __init__(self, associations: list[Association], thresholds: Thresholds) -> None:
        self.associations = associations
        self.thresholds = thresholds
        who = [each.who for each in associations]
        self.who = torch.cat(who)
        self.what = torch.cat([each.what for each in associations])
        device = self.who.device
        rows = torch.tensor([len(each.frames) for each in associations], device=device)
        self.about = torch.stack([each.about for each in associations]).repeat_interleave(rows, dim=0)
        self.asked = normalize(self.what - (self.what * self.about).sum(-1, keepdim=True) * self.about, dim=-1)
        counts = torch.tensor([len(each) for each in who], device=device)
        self.speaker = torch.arange(len(who), device=device).repeat_interleave(counts)
        self.weight = 1 / counts[self.speaker]
        self.row = torch.tensor([row for each in associations for row, _ in enumerate(each.frames)], device=device)
        self.owner = torch.tensor([n for n, each in enumerate(associations) for _ in each.frames], device=device)
        self.frames = torch.tensor([frame for each in associations for frame in each.frames], device=device)

    def form(self, row: int, frame: int) -> int:
        """Which form to write where place key `row` opens in a frame: its own in its own frame, else the frame's."""
        return int(self.row[row]) if int(self.frames[row]) == frame else frame

    def heard(self, early: Tensor, before: Tensor | None) -> Tensor:
        """Best match so far of each word of each subject: [B, T, M] of unit keys [B, T, W]; `before` [B, M]."""
        similar = early @ self.who.T
        if before is not None:
            similar[:, 0] = torch.maximum(similar[:, 0], before)
        return similar.cummax(dim=1).values

    def subjects(self, heard: Tensor) -> Tensor:
        """s_n(t), [B, T, N]."""
        total = heard.new_zeros(*heard.shape[:-1], len(self.associations))
        return total.index_add_(-1, self.speaker, heard * self.weight)

    def scores(self, subjects: Tensor, late: Tensor, frames: Tensor) -> Tensor:
        """Score of each place key at each token: [B, T, R].   late: unit [B, T, D].   frames: [B, T]."""
        tau = self.thresholds
        own = frames.unsqueeze(-1) == self.frames
        limit = torch.where(own, tau.same, tau.cross)
        left = (1 - (late @ self.about.T).square()).clamp_min(1e-6).sqrt()
        place = ((late @ self.asked.T / left - limit) / (1 - limit)).clamp(0, 1)
        place = place * (own | (self.row == 0))
        subject = ((subjects - tau.who) / (1 - tau.who)).clamp_min(0)
        return place * subject[..., self.owner]

    def opens_itself(self, number: int) -> bool:
        """Whether association `number` is the one of highest score at its own keys."""
        own = self.associations[number]
        heard = (own.who @ self.who.T).amax(0)[None, None]
        frames = torch.tensor([[own.frames[0]]], device=own.what.device)
        scores = self.scores(self.subjects(heard), own.what[:1][None], frames)
        return int(self.owner[scores[0, 0].argmax()]) == number and bool(scores.max() > 0)
