"""Pieces of a method: advantages, token losses, aggregations, and how they compose."""
