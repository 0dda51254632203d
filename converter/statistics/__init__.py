"""Statistics of tensors' elements, from one pass over their bytes."""
