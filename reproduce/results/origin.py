"""Whether rows have the same device and plan as the article."""

from reproduce.results.rows import Row

ARTICLE_DEVICE = "NVIDIA A100-SXM4-40GB"
# Any A100 with 40 GB, SXM4 or PCIe.
ARTICLE_DEVICES = {ARTICLE_DEVICE, "NVIDIA A100-PCIE-40GB"}
ARTICLE_PLAN = "article"


def not_run(row: Row) -> str:
    """Text such as ``compiled for A100, not run`` if ``row`` was not run, else empty."""
    if row.was_run:
        return ""
    return f"{row.how} for {row.device.removeprefix('NVIDIA ').partition('-')[0]}, not run"


def is_articles(row: Row) -> bool:
    """Whether ``row`` has the article's device, run or not."""
    return row.device in ARTICLE_DEVICES


def is_as_in_the_article(row: Row) -> bool:
    """Whether ``row`` has the article's device and plan, run or not."""
    return is_articles(row) and row.plan == ARTICLE_PLAN
