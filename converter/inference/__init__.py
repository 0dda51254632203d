"""Whether a copy computes the same as its source: the forward pass, other engines, and the comparison."""
