"""The way out of pickle: inspect, take apart, convert and verify checkpoints without running them."""
