"""Time our memories against attention and installed peers: python benchmarks/speed.py [--help]."""

import typer

from nestling.cli.bench import speed

if __name__ == "__main__":
    typer.run(speed)
