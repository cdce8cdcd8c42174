"""From graded groups to one packed batch."""
