"""The algorithm. The files here say what it is, the folders how its parts are done; each folder lists its files.

loop.py        the rounds of every arm
learner.py     the state of a run, which the loop drives
schedule.py    which problems are trained on, and when
balance.py     which kind of round comes next
parts.py       the two parts of a sequential arm
rollouts.py    the policy answers problems, and the answers are scored
evaluation.py  accuracy, KL and cost on held-out problems
kl.py          KL from the base
lengths.py     which problems fit the model's context
fast/          the fast round: GEPA evolves prompts
slow/          the slow round: TRL trains an adapter
distill/       an evolved prompt is trained into the adapter
run/           a job from its parameters to the end: plan, start, books, checkpoints, processes
"""
