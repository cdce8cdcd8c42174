"""Models that megaent makes or fetches itself: the demonstration's, warmed up, and SmolLM2's folder.

May import ``actor.options``, ``data`` and what lies below; ``run`` imports it.
"""
