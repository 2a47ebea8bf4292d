"""ke-run: a command-line experiment runner for knowledge-editing benchmarks."""

__version__ = "0.1.0"
