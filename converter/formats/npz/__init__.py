"""numpy's files: npz, a zip of arrays by name, and npy, one array without a name."""
