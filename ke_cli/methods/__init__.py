"""Editors: one file per family, the mathematics of the papers."""
