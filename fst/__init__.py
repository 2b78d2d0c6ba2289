"""Fast-Slow Training: slow weights (LoRA, RL) and fast weights (prompts, GEPA) on one verifiable reward."""
