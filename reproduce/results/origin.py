"""On which device rows came about and how: the article's or another, run or not."""

import re

ARTICLE_DEVICE = "NVIDIA A100-SXM4-40GB"
# Any A100 with 40 GB, in whichever form it is built in.
ARTICLE_DEVICES = {ARTICLE_DEVICE, "NVIDIA A100-PCIE-40GB"}
ARTICLE_PLAN = "article"
NOT_RUN = re.compile(r"(?P<name>.+) \((?P<how>\w+), not run\)")


def not_run(device: str) -> str:
    """How rows came about whose ``device`` was not run; empty if they were measured.

    ``NVIDIA A100-SXM4-40GB (compiled, not run)`` gives ``compiled for A100, not run``.
    """
    found = NOT_RUN.fullmatch(device)
    if found is None:
        return ""
    model = found["name"].removeprefix("NVIDIA ").partition("-")[0]
    return f"{found['how']} for {model}, not run"


def is_articles(device: str) -> bool:
    """Whether ``device`` is the article's, run or not."""
    found = NOT_RUN.fullmatch(device)
    return (device if found is None else found["name"]) in ARTICLE_DEVICES


def ran_as_in_the_article(device: str, plan: str) -> bool:
    """Whether rows were measured on the article's device with its plan."""
    return device in ARTICLE_DEVICES and plan == ARTICLE_PLAN
