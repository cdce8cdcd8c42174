"""reasoning-gym's tasks: items with their verdicts, drawn and judged in processes of their own."""
