"""Data sets: from files to validated cases."""
