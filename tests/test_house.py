"""Arrows between modules point one way: figures are drawn from results, and never the other way."""

import ast
import re

import pytest
from commands import ROOT


def imports(path):
    """The modules that ``path`` imports when it is loaded.

    Yields:
        The name of each, and of what is taken from it.
    """
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def modules(package):
    """Each module of ``package`` by its name, and the names of those that it imports."""
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / package).rglob("*.py")
    }
    # A package that takes modules of its own names itself.
    return {name: set(imports(path)) - {name} for name, path in found.items()}


def test_what_measures_and_judges_imports_nothing_that_draws():
    for name, imported in modules("reproduce").items():
        assert not [each for each in imported if each.startswith("paper_figures")], name


def test_what_draws_imports_no_framework():
    for name, imported in modules("paper_figures").items():
        heavy = (
            "jax",
            "torch",
            "flax",
            "transformers",
            "reproduce.in_",
            "reproduce.measuring.runner",
        )
        assert not [each for each in imported if each.startswith(heavy)], name


# From the one that all may import to the one that may import all.
LAYERS = (
    {"errors", "plan", "methods", "problems"},
    {"results", "machine", "printing", "algorithms", "in_jax", "in_torch"},
    {"measuring", "article", "beyond", "report", "evidence", "drawing"},
    {"mine"},
    {"cli", "container", "__main__"},
)


def layer(module):
    (place,) = (n for n, names in enumerate(LAYERS) if module.split(".")[1] in names)
    return place


def test_no_arrow_points_up():
    own = {name: imported for name, imported in modules("reproduce").items() if "." in name}
    for name, imported in own.items():
        assert not [each for each in imported & own.keys() if layer(each) > layer(name)], name


def test_no_module_imports_itself_through_others():
    known = modules("reproduce") | modules("paper_figures")

    def reached(name, path=()):
        assert name not in path, " imports ".join((*path, name))
        if name not in clean:
            for each in sorted(known[name] & known.keys()):
                reached(each, (*path, name))
            clean.add(name)

    clean = set()
    for name in known:
        reached(name)


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name
)
def test_every_file_that_a_document_names_is_there(document):
    named = set(re.findall(r"[\w*]+/[\w*/]+\.(?:py|toml|jinja|css|js)\b", document.read_text()))
    missing = [name for name in named if not (*ROOT.glob(name), *(ROOT / "reproduce").glob(name))]
    assert missing == []
