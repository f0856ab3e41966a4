"""Print the docs page of all rules: `python -m nestling.rules > docs/rules.md`."""

from __future__ import annotations

import sys

from nestling.rules.page import page

if __name__ == "__main__":
    sys.stdout.write(page())
