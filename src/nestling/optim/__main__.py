"""Print the docs page of all optimizers: `python -m nestling.optim > docs/optimizers.md`."""

from __future__ import annotations

import sys

from nestling.optim.page import page

if __name__ == "__main__":
    sys.stdout.write(page())
