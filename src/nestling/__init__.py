"""Models that keep learning: Nested Learning for PyTorch."""

__version__ = "0.1.0"
