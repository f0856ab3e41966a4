"""The docs page of all rules, made from the table."""

from __future__ import annotations

from collections.abc import Iterable

from nestling.rules import RULES
from nestling.rules.rule import Rule

INTRODUCTION = """\
<!-- Made by `python -m nestling.rules`; do not edit. -->
# Learning rules

Every rule below is a memory that maps keys to values. It has an inner **objective**, an **update** that is carried out
for every token, and a **state** that is carried from token to token. One file per rule; the update in the file stands
beside the same equation.

Letters: `k`, `v`, `q` are key, value and query; `M` is a matrix memory with `y = M q`; `eta` is the inner learning rate
and `alpha` the retention (1 keeps all, 0 forgets all), both one number per write, row and head. `NL` is *Nested
Learning* (arXiv 2512.24695), `Titans` arXiv 2501.00663, `TTT` arXiv 2407.04620, `Miras` arXiv 2504.13173, `Gated
DeltaNet` arXiv 2412.06464.
"""

FOOTNOTE = """
(1) Gradients are taken at the end of the previous chunk: exact for chunk size 1, an approximation for larger chunks.
The other fast twins are exact for every chunk size.
"""


def overview(rules: Iterable[Rule]) -> str:
    """One table row per rule: name, what it gives, state, equations, file, fast twin."""
    lines = [
        "| rule | gives | state | equations | file | fast twin |",
        "|---|---|---|---|---|---|",
    ]
    for rule in rules:
        link = f"[{rule.title}](#{rule.name.replace('_', '-')})"
        twin = f"`{rule.fast_twin}`{'' if rule.twin_is_exact else ' (1)'}" if rule.fast_twin else "-"
        cells = (link, rule.model, rule.state_kind, rule.equations, f"`rules/{rule.file}`", twin)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def section(rule: Rule) -> str:
    """One rule with its equations in full."""
    return f"""\
<a id="{rule.name.replace("_", "-")}"></a>
## {rule.title}

Name in commands: `{rule.name}`. Gives: {rule.model}. Source: {rule.equations}.

    objective  {rule.objective_text}
    update     {rule.update_text.replace("; ", chr(10) + "               ")}
"""


def page() -> str:
    """The whole page as Markdown."""
    rules = list(RULES.values())
    return "\n".join([INTRODUCTION, overview(rules), FOOTNOTE, *(section(rule) for rule in rules)])
