"""Protocols: which cases are written together."""
