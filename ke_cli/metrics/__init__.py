"""Metrics: from raw scores to named, versioned numbers."""
