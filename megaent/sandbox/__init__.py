"""Programs of unknown origin, run where they can compute, read what they are given and write what is read."""
