"""What archives read of this package says the same as CITATION.cff."""

import pytest
from citation import ROOT, made


@pytest.mark.parametrize("name", ["codemeta.json", ".zenodo.json"])
def test_a_file_for_archives_is_made_from_the_citation(name):
    written = (ROOT / name).read_text(encoding="utf-8")
    assert written == made()[name], "run 'python tests/citation.py'"
