"""Draws the article's figures and writes its tables from recorded rows; never measures.

matplotlib refuses to be imported where MPLBACKEND names a backend that is not installed, as in
a notebook's shell. Nothing here is shown on a screen, so that the backend is always Agg.
"""

import os

os.environ["MPLBACKEND"] = "agg"
