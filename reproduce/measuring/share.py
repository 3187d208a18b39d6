"""A share of a plan: some of its settings, so that several GPUs divide a plan among them."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from reproduce.errors import UserError
from reproduce.measuring import cost, schedule
from reproduce.plan import Case, Setting, by_setting


class Share(NamedTuple):
    """Share ``number`` of ``total``, counted from 1."""

    number: int
    total: int

    def of(self, cases: Iterable[Case]) -> list[Case]:
        """The ``cases`` of this share, in their order; settings are never divided."""
        settings = divided(by_setting(cases), self.total)[self.number - 1]
        return [case for setting in settings for case in setting]


def parsed(text: str) -> Share:
    """The share that ``text`` names: ``2/8`` is the second of eight.

    Raises:
        UserError: if it is not of this form.
    """
    found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
    share = Share(*map(int, found.groups())) if found else Share(0, 0)
    if not 1 <= share.number <= share.total:
        raise UserError(
            f"share {text!r} of a plan was asked for; give i/N, the i-th of N shares, such as 1/4"
        )
    return share


def divided(settings: list[Setting], count: int) -> list[list[Setting]]:
    """``settings`` in ``count`` shares of about the same expected seconds, each in order.

    The division does not depend on the machine.
    """
    at_once = schedule.at_once(settings, schedule.MACHINE_WITH_A100)
    seconds = [sum(cost.parts_seconds(setting, at_once)) for setting in settings]
    shares: list[list[int]] = [[] for _ in range(count)]
    for index in sorted(range(len(settings)), key=lambda index: -seconds[index]):
        min(shares, key=lambda share: sum(seconds[each] for each in share)).append(index)
    return [[settings[index] for index in sorted(share)] for share in shares]
