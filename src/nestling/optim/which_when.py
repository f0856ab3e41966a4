"""When to use which optimizer, and what was measured for it: rows of (wish, what to take, evidence)."""

from __future__ import annotations

__all__ = ["WHICH_WHEN"]

WHICH_WHEN: tuple[tuple[str, str, str], ...] = (
    (
        "to train a network and not think about it",
        "`adamw`",
        "test loss at equal steps 2.04 on text, 0.46 on images",
    ),
    (
        "a lower loss after the same steps",
        "`muon`",
        "1.97 on text, 0.31 on images. A training step takes 1.8 and 1.3 times AdamW's there, so at "
        "equal seconds 2.16 (AdamW 2.07) and 0.39 (AdamW 0.55)",
    ),
    (
        "the same with a slow memory of gradients beside",
        "`m3`, the stable form",
        "not for a lower loss: 2.07 on text, 0.40 on images, above Muon on both and above AdamW on text; 1.06 and 1.10 "
        "times the seconds of Muon's step",
    ),
    (
        "the smallest state and the cheapest step",
        "`momentum`",
        "2.28 on text, 0.81 on images",
    ),
    (
        "momentum whose decay depends on the gradient",
        "`delta_momentum`",
        '2.23 on text, 0.47 on images: below momentum. With `preconditioner="diagonal"` 2.02 on text, '
        "0.31 on images; without the erase that is 2.03 and 0.40. On the landscape of NL Fig. 4 it "
        "mostly arrives at fewer rates than momentum. The scalar form costs little more than momentum",
    ),
    (
        "to study a learned memory of gradients",
        "`deep_momentum`",
        "2.36 on text, 0.58 on images, at 1.3 and 2.1 times AdamW's seconds",
    ),
    (
        "to learn one task after another and store nothing",
        "`recursive_dgd`",
        "ten tasks, one network: permuted digits 93.6 % (AdamW 47.9, momentum 45.5, all tasks at once "
        "95.3), rotated digits 91.4 % (60.7, 54.4, 95.3)",
    ),
    (
        "a linear head that is the exact ridge regression of all it has seen",
        '`recursive_dgd`, `mode="step"`, `lr=1`, `reduction="sum"`',
        "equal to the closed form in any order (a test)",
    ),
    (
        "layers whose step overshoots at no rate",
        '`dgd` with `target="answer"`',
        'a test. Test loss on images 0.52; as printed (`target="surprise"`, `erase=1`) it learned '
        "neither text (5.51) nor images (2.28)",
    ),
    (
        "bounded steps under outlier gradients",
        "`feature_momentum`",
        "its equation (a test); not measured in training",
    ),
    (
        "parts of a model that change at different clocks",
        "`NestedOptimizer` around any of these",
        "period 1 is the plain optimizer bit for bit (a test)",
    ),
)
