"""Whether a copy computes what its source does: the forward pass, other engines as witnesses, the comparison."""
