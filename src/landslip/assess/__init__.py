"""A map against a reference. Knows no network, so it serves maps from any tool."""
