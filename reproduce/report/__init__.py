"""The report: one page, and what stands on it."""
