"""Models: loading, and where each architecture keeps its projections."""
