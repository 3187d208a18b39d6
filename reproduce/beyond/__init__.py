"""HVPs at work, which the article leaves to its reader, measured into tidy tables."""
