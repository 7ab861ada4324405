"""From files as delivered to ground to learn from."""
