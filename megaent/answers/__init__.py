"""Final answers read from text, for keys and for responses alike.

May import ``errors``; ``data`` and ``reward`` import it.
"""
