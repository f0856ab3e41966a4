"""The page of all optimizers is made from the table."""

from pathlib import Path

from nestling.optim.page import page


def test_the_page_is_up_to_date():
    path = Path(__file__).parents[2] / "docs" / "optimizers.md"
    assert path.read_text() == page(), "run `python -m nestling.optim > docs/optimizers.md`"
