"""The fast round: GEPA evolves prompts.

round.py           the round
rules.py           its rules in place of GEPA's: what is scored on the anchors, which prompt is reflected on
trial.py           how long a proposal is scored before it is given up
frontier.py        the Pareto frontier, and the prompts that cover it
reflectors.py      the reflector of a run
demonstrations.py  proposals made of worked examples
account.py         what reflection cost, and which proposals were refused
"""
