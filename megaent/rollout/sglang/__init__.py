"""Rollouts from SGLang servers: started (``server``), asked (``wire``, ``client``), kept apart (``fleet``).

Nothing here imports sglang, which lives in an environment of its own; everything goes over HTTP.
"""
