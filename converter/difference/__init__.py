"""What changed between two checkpoints, and by how much."""
