"""Many checkpoints: a job file, its tasks, a journal that survives, and engines that run them."""
