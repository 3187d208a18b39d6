"""Draws the article's figures and writes its tables from recorded rows; never measures.

matplotlib cannot be imported if MPLBACKEND names a backend that is not installed, as in a
notebook's shell. Nothing here is shown on a screen, so the backend is always Agg.
"""

import os

os.environ["MPLBACKEND"] = "agg"
