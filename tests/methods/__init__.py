"""The editors against the plain implementations of `textbook` and the authors' own programs."""
