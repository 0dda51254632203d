"""Whether one checkpoint is sound: whole, readable, without values that no model has, and fitting what lies beside it."""
