"""The templates of the pages, which lie beside their code and escape every value."""

from pathlib import Path

import jinja2


def templates(*folders: Path) -> jinja2.Environment:
    """The templates in ``folders``; a name that a template uses and is not given is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
