"""The policy, its engines, the reflector and the lab base model."""
