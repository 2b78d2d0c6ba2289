"""The policy, its engines, the reflectors and the lab base model."""
