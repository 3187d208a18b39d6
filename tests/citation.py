"""What archives read, made from CITATION.cff: ``python tests/citation.py`` writes both files."""

import json
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent


def made():
    """The content of both files by name."""
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    (article,) = cff["references"]
    date = str(cff["date-released"])
    codemeta = {
        "@context": "https://w3id.org/codemeta/3.0",
        "@type": "SoftwareSourceCode",
        "name": cff["title"],
        "version": cff["version"],
        "datePublished": date,
        "license": f"https://spdx.org/licenses/{cff['license']}",
        "author": [{"@type": "Organization", "name": each["name"]} for each in cff["authors"]],
        "programmingLanguage": "Python",
        "citation": article["url"],
    }
    zenodo = {
        "upload_type": cff["type"],
        "title": cff["title"],
        "version": cff["version"],
        "publication_date": date,
        "license": cff["license"].lower(),
        "creators": [{"name": each["name"]} for each in cff["authors"]],
        "description": f"The measurements and figures of {_reference(article)}, reproduced.",
        "related_identifiers": [
            {"identifier": article["url"], "relation": "isSupplementTo", "scheme": "url"}
        ],
    }
    return {
        name: json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        for name, content in {"codemeta.json": codemeta, ".zenodo.json": zenodo}.items()
    }


def _reference(article):
    authors = ", ".join(f"{a['given-names']} {a['family-names']}" for a in article["authors"])
    return f"{authors}: {article['title']} {article['journal']}"


if __name__ == "__main__":
    for name, content in made().items():
        (ROOT / name).write_text(content, encoding="utf-8")
