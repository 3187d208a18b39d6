"""The results: rows, what they say, and what was published."""
