"""What every editor and metric computes with: knows torch, knows no method."""
