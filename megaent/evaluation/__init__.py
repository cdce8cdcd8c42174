"""What sampled answers say of a model: estimators with intervals, lengths, efficiency.

May import ``errors`` and ``types``; ``loop`` and ``run`` import it.
"""
