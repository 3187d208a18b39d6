"""The article's figures on the page: images, their numbers, and what to look at."""

import base64
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pandas as pd

from reproduce import problems
from reproduce.article.sources import IN_GRADIENTS, Source
from reproduce.drawing import BENCHES, DIAGRAMS, OF_BEYOND, Bench
from reproduce.plan import ARTICLE_MODELS
from reproduce.report.evidence import MEASURED, Evidence, Folder
from reproduce.results import summary

KIND = ["quantity", "framework", "mode"]
# The batch size of the bars in the article's figures.
BATCH_SIZE = 64
PIXELS_PER_REM = 36
COST = {
    "time": "takes {} times its gradient's time",
    "memory": "needs {} times its gradient's memory",
}


class Image(msgspec.Struct, frozen=True):
    """A PNG as a data URI, its size in pixels, and the source of its numbers."""

    uri: str
    width: int
    height: int
    origin: str

    @property
    def natural_rem(self) -> float:
        """The width at which its text is as large as the page's."""
        return round(self.width / PIXELS_PER_REM, 1)


class Shown(msgspec.Struct, frozen=True):
    """A figure on the page: ``see`` is one sentence, ``costs`` are in gradients, by source."""

    name: str
    see: str
    images: tuple[Image, ...]
    costs: pd.DataFrame


def benches(evidence: Evidence) -> list[Shown]:
    """The measured figures, each with its variant at batch size 64, if there is one."""
    return [
        _bench(name, bench, evidence) for name, bench in BENCHES.items() if not bench.only_this_size
    ]


def diagrams(folder: Folder) -> list[Shown]:
    """The drawn figures."""
    return [_drawn(name, see, folder.path) for name, see in DIAGRAMS.items()]


def beyond(folder: Path) -> list[Shown]:
    """The figures beyond the article that ``folder`` has."""
    found = [_drawn(name, see, folder) for name, see in OF_BEYOND.items()]
    return [figure for figure in found if figure.images]


def _drawn(name: str, see: str, folder: Path) -> Shown:
    return Shown(name, f"Look at {see}.", tuple(_images(name, folder, "")), pd.DataFrame())


def _bench(name: str, bench: Bench, evidence: Evidence) -> Shown:
    kind = (bench.quantity, bench.framework, bench.mode)
    sources = (*(folder.source for folder in evidence.folders), evidence.article)
    costs = _side_by_side({source.name: _in_gradients(source, kind) for source in sources})
    images = [
        image
        for folder in evidence.folders
        for image in _images(name, folder.path, _origin(folder, kind))
    ]
    return Shown(name, _sentence(bench, costs), tuple(images), _labelled(costs))


def _in_gradients(source: Source, kind: tuple[str, str, str]) -> pd.Series:
    """The cost of each HVP as a multiple of its gradient's, by model, batch size and method."""
    quantity, *run = kind
    if quantity == "time":
        return _of_kind(source, (IN_GRADIENTS, *run))
    values = _of_kind(source, kind)
    is_gradient = values.index.get_level_values("method") == "gradient"
    hvps, gradients = values[~is_gradient], values[is_gradient].droplevel("method")
    return (hvps / gradients.reindex(hvps.index.droplevel("method")).to_numpy()).dropna()


def _of_kind(source: Source, kind: tuple[str, ...]) -> pd.Series:
    """The values of one quantity, framework and mode, by model, batch size and method."""
    kinds = source.cases.index.droplevel(summary.CELL)
    return source.cases["value"][kinds.isin([kind])].droplevel(KIND).dropna()


def _side_by_side(costs: dict[str, pd.Series]) -> pd.DataFrame:
    """The costs by source: all of this run's, and the article's models at its batch size."""
    table = pd.DataFrame(costs).dropna(axis="columns", how="all")
    at_batch_size = table.index.get_level_values("batch_size") == BATCH_SIZE
    of_article = at_batch_size & table.index.isin(ARTICLE_MODELS, level="model")
    return table[of_article | table.index.isin(costs[MEASURED].index)]


def _origin(folder: Folder, kind: tuple[str, str, str]) -> str:
    rows = summary.of_kind(summary.last_of_each_case(folder.rows), kind)
    newest, left_out = summary.newest(rows)
    place = f"{newest[0].place}, plan {newest[0].plan}" if newest else "no rows"
    return " ".join(filter(None, [f"{folder.source.name}: {place}.", left_out]))


def _sentence(bench: Bench, costs: pd.DataFrame) -> str:
    look = f"Look at {bench.see}"
    if costs.empty:
        return f"{look}."
    ranges = ", ".join(_range(source, costs[source].dropna()) for source in costs)
    return f"{look}; an HVP {COST[bench.quantity].format(ranges)}."


def _range(source: str, costs: pd.Series) -> str:
    sizes = costs.index.get_level_values("batch_size")
    shown = costs[sizes == BATCH_SIZE] if BATCH_SIZE in sizes else costs
    batch_sizes = " and ".join(map(str, sorted(set(shown.index.get_level_values("batch_size")))))
    return f"{shown.min():.1f} to {shown.max():.1f} ({source}, batch {batch_sizes})"


def _labelled(costs: pd.DataFrame) -> pd.DataFrame:
    """The costs in order, with labels for the reader."""
    table = costs.reset_index().sort_values(["model", "batch_size", "method"], key=_order)
    table["model"] = table["model"].map(problems.label)
    table["method"] = table["method"].str.replace("_", "-")
    return table.rename(columns={"batch_size": "batch"})


def _order(column: pd.Series) -> pd.Series:
    return column.map(problems.order) if column.name == "model" else column


def _images(name: str, folder: Path, origin: str) -> Iterator[Image]:
    for path in (folder / "figures" / f"{each}.png" for each in (name, f"{name}_b64")):
        if path.exists():
            png = path.read_bytes()
            width, height = struct.unpack(">II", png[16:24])
            uri = f"data:image/png;base64,{base64.b64encode(png).decode()}"
            yield Image(uri, width, height, origin)
