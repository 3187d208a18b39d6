"""The report: one page with verdicts, figures, errata and tables."""
