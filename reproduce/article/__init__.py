"""The article: its claims, judged, and its errata."""
