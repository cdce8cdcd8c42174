"""What sampled answers say of a model: ``statistics`` with intervals, ``sampled`` from the present policy.

May import loop and what lies below; ``run`` and ``commands`` import it.
"""
