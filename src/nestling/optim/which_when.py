"""When to use which optimizer, and what was measured for it: rows of (wish, what to take, evidence)."""

from __future__ import annotations

__all__ = ["WHICH_WHEN"]

WHICH_WHEN: tuple[tuple[str, str, str], ...] = (
    (
        "to train a network and not think about it",
        "`adamw`",
        "test loss at equal steps 2.51 on text, 1.04 on images",
    ),
    (
        "a lower loss after the same steps",
        "`muon`",
        "2.34 on text, 0.68 on images. A training step takes 1.9 and 1.1 times AdamW's there, so at "
        "equal seconds 2.53 (AdamW 2.51) and 0.80 (AdamW 1.19)",
    ),
    (
        "the same with a slow memory of gradients beside",
        "`m3`, the stable form",
        "2.36 on text, 0.70 on images: below AdamW, not below Muon; 1.12 and 1.08 times the seconds of Muon's step",
    ),
    (
        "the smallest state and the cheapest step",
        "`momentum`",
        "2.65 on text, 1.62 on images",
    ),
    (
        "momentum whose decay depends on the gradient",
        "`delta_momentum`",
        '2.61 on text, 1.28 on images: below momentum. With `preconditioner="diagonal"` 2.51 on text, '
        "0.64 on images; without the erase that is 2.47 and 1.12. On the landscape of NL Fig. 4 it "
        "mostly arrives at fewer rates than momentum. The scalar form costs little more than momentum",
    ),
    (
        "to study a learned memory of gradients",
        "`deep_momentum`",
        "2.62 on text, 1.26 on images, at 1.4 and 2.0 times AdamW's seconds",
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
        'a test. Test loss on images 1.69; as printed (`target="surprise"`, `erase=1`) it learned '
        "neither text (5.50) nor images (2.29)",
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
