"""Results: the append-only case log, the run record, and their reader."""
