"""The slow round: TRL trains a LoRA adapter, one optimizer step per call.

weights.py  the slow weights, and a step
batch.py    a step's gradient, slice by slice
trainer.py  TRL's configuration, and plain TRL as the baseline of `fst bench speed`
dealing.py  which prompt each rollout of a group gets, and the weights of the loss
reuse.py    a fast round's rollouts as members of the groups
"""
