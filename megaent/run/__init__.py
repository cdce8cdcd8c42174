"""One run: its configuration's root, building its parts, its steps, checkpoints and directory.

May import every room below; ``config`` and ``commands`` import it.
"""
