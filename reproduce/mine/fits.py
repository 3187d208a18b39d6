"""Whether products fit into memory, here and on another GPU, found before they run."""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, cast

from reproduce.errors import UserError
from reproduce.machine.target import Target
from reproduce.measuring import cost
from reproduce.measuring.framework import Accounting, Tree
from reproduce.mine.correct import Say, first_line
from reproduce.mine.found import Product
from reproduce.mine.kit import Kit
from reproduce.mine.measure import Subject

# From a function and its arguments to the bytes that the call needs, arguments included.
NeededBytes = Callable[..., int]


class Room(NamedTuple):
    """A device's memory and name, and the function that finds the bytes that a call needs."""

    where: str
    free_bytes: int
    needed_bytes: NeededBytes


def of_target(kit: Kit, target: Target, cache: Path) -> Room:
    """The memory of the GPU ``target``, which need not be here; ``cache`` keeps what XLA compiled.

    Raises:
        UserError: if no compiler for it is installed.
    """
    try:
        module = import_module(f"reproduce.in_{kit.framework}.accounting")
    except ModuleNotFoundError as missing:
        raise UserError(
            f"memory on the {target.device} was asked for, and {missing}; install it, or leave "
            "--target out"
        ) from None
    accounting = cast(Accounting, module)
    cache.mkdir(exist_ok=True)

    def needed_bytes(function: Callable[..., Tree], *arguments: Tree) -> int:
        return accounting.memory(function, kit.own.MODE, target, cache, *arguments)[0]

    return Room(f"On the {target.device}", target.memory_bytes, needed_bytes)


def here(of: Subject, products: Sequence[Product], room: Room, say: Say) -> None:
    """Notes how much memory each right product needs; one that does not fit is not timed."""
    for each, needed, reason in _needs(of, products, room, say):
        each.needed_bytes = needed
        if reason:
            each.verdict, each.reason = "too large", reason


def elsewhere(of: Subject, products: Sequence[Product], room: Room, say: Say) -> None:
    """Notes how much memory each right product needs on another GPU; all are still timed here."""
    for each, needed, _ in _needs(of, products, room, say):
        each.target_bytes = needed


def _needs(
    of: Subject, products: Sequence[Product], room: Room, say: Say
) -> Iterator[tuple[Product, int, str]]:
    counts: list[int] = []
    unknown: dict[str, list[str]] = {}
    for each in products:
        if each.verdict != "right":
            continue
        try:
            needed = room.needed_bytes(of.function(each), *of.arguments)
        except Exception as error:  # whatever the user's code does that needs numbers
            unknown.setdefault(first_line(error), []).append(each.label)
            continue
        counts.append(needed)
        reason = _too_large(of, each, needed, room)
        if reason:
            say(f"{room.where} {each.label} DOES NOT FIT; it {reason}.")
        yield each, needed, reason
    for reason, labels in unknown.items():
        say(
            f"The memory of {'; '.join(labels)} is not known before it runs: it depends on numbers "
            f"({reason})."
        )
    if counts:
        ends = dict.fromkeys(map(cost.readable_bytes, (min(counts), max(counts))))
        say(
            f"{room.where} the products need {' to '.join(ends)}, parameters and batch included; "
            f"{cost.readable_bytes(room.free_bytes)} are free."
        )


def _too_large(of: Subject, product: Product, needed: int, room: Room) -> str:
    """Why a product that needs too much does not fit, with the largest batch that would."""
    if needed <= room.free_bytes:
        return ""
    sentence = f"needs {cost.readable_bytes(needed)}"
    samples = of.found.samples
    sizes = {leaf.shape[0] for leaf in samples.values() if leaf.ndim}
    if len(sizes) != 1 or sizes == {1}:
        return sentence
    (size,) = sizes
    half = {name: leaf[: size // 2] for name, leaf in samples.items() if leaf.ndim}
    batch = of.found.batch | half
    function = of.kit.product(product, of.found, batch)
    of_half = room.needed_bytes(function, of.found.params, of.v, batch)
    of_sample = (needed - of_half) / (size - size // 2)
    largest = size - (needed - room.free_bytes) / max(of_sample, 1)
    if largest < 1:
        return f"{sentence}, and more than is free even for a single sample"
    return f"{sentence}; the largest batch that fits is about {int(largest)} of {size}"
