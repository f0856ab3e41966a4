"""A result as something to look at: a table, a figure, one self-contained page."""
