"""The step and what it needs to remember: trainer, generation, drawing ahead, method state, clock.

May import actor, sync and what lies below; ``run`` imports it.
"""
