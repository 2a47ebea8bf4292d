"""The fast engine against the plain implementations of `textbook`."""
