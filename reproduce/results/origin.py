"""Whether rows came about as the article's did: on its device, with its plan."""

from reproduce.results.rows import Row

ARTICLE_DEVICE = "NVIDIA A100-SXM4-40GB"
# Any A100 with 40 GB, in whichever form it is built in.
ARTICLE_DEVICES = {ARTICLE_DEVICE, "NVIDIA A100-PCIE-40GB"}
ARTICLE_PLAN = "article"


def not_run(row: Row) -> str:
    """How ``row`` came about, if it was not run: ``compiled for A100, not run``; else empty."""
    if row.was_run:
        return ""
    return f"{row.how} for {row.device.removeprefix('NVIDIA ').partition('-')[0]}, not run"


def is_articles(row: Row) -> bool:
    """Whether ``row`` is of the article's device, run or not."""
    return row.device in ARTICLE_DEVICES


def is_as_in_the_article(row: Row) -> bool:
    """Whether ``row`` is of the article's device and plan, run or not."""
    return is_articles(row) and row.plan == ARTICLE_PLAN
