"""The embedded engine: a whole model in this process, its options, and its decoding loop."""
