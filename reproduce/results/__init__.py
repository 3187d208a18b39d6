"""The results: rows, what is computed from them, and the published numbers."""
