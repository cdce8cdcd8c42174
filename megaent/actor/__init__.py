"""The policy being trained: Megatron-Core models, their layouts, and the one fixed loss."""
