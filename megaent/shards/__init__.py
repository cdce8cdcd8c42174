"""Token sequences in files larger than memory, read in an order that nothing but a seed decides."""
