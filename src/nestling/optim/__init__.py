"""Optimizers as memories of gradients and inputs."""

from nestling.optim.input_memory import InputMemory

__all__ = ["InputMemory"]
