"""Sampling: one protocol (``engine``), the draw it rests on (``sampling``), and the engines."""
