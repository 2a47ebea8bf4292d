"""The parts of ``scripts/bench.py``: the textbook loop and the engine, timed side by side."""
