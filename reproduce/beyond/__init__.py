"""What the article leaves to its reader: HVPs at work, measured into tidy tables."""
