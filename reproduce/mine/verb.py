"""The verb ``mine``: which HVP to use for a loss of the user's own."""

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich import box
from rich.table import Column, Table

from reproduce import drawing, printing
from reproduce.errors import UserError
from reproduce.machine import environment
from reproduce.machine.target import load
from reproduce.measuring import cost, preflight
from reproduce.measuring.runner import set_worker_environment
from reproduce.mine import answer, page, stages, workers
from reproduce.mine.found import FILE, STEPS, Found
from reproduce.results.files import whole_file


def mine(
    file: Annotated[Path, typer.Argument(help="Your file, with a function 'problem'.")],
    results: Annotated[Path, typer.Argument(help="The folder for the page.")] = Path(
        "results/mine"
    ),
    as_is: Annotated[bool, typer.Option("--as-is", help="Repair no function.")] = False,
    compile_seconds: Annotated[
        float, typer.Option(min=0, help="Time limit of torch.compile; 0 leaves it out.")
    ] = 120,
    target: Annotated[
        str | None, typer.Option(help="Memory on a GPU that is not here: a100, h100, or a file.")
    ] = None,
) -> None:
    """Say which HVP of your own loss is right, fits and is fast; PyTorch or JAX.

    Raises:
        Exit: with code 1 if the page cannot be drawn.
        UserError: if there is no such file or target, or the file cannot be used.
    """
    start = time.perf_counter()
    on_gpu = environment.gpu()[0] is not None
    path = _checked(file, results)
    set_worker_environment(on_gpu, jax_may_fall_back=True)
    printer = _Printer()
    wanted = (path, results.resolve(), not as_is, on_gpu, load(target) if target else None)
    found = workers.run(stages.find, wanted, results, printer.say)
    if found.framework == "torch" and compile_seconds:
        _compile(found, path, results, compile_seconds, printer)
    for sentence in answer.advice(found):
        found.said.setdefault("Answer", []).append(sentence)
        printer.say("Answer", sentence)
    _write(found, results)
    _print_table(found)
    spent = cost.readable_seconds(time.perf_counter() - start)
    print(
        f"{results / stages.CODE} computes it ({page.checked(found)}). {results / 'mine.html'} "
        f"has all of it; it took {spent}."
    )


def _checked(file: Path, results: Path) -> Path:
    """The file's absolute path, if it exists and results can be written.

    Raises:
        UserError: otherwise.
    """
    if not file.is_file():
        raise UserError(f"{file} was asked for, and there is no such file; give one of your own")
    preflight.check_variables()
    try:
        (results / workers.LOGS).mkdir(parents=True, exist_ok=True)
    except OSError:
        raise UserError(
            f"results go to {results}, which cannot be written; give another RESULTS"
        ) from None
    return file.resolve()


def _compile(found: Found, path: Path, results: Path, limit: float, printer: "_Printer") -> None:
    try:
        product = workers.run(stages.compile_best, (path, found.best), results, limit_seconds=limit)
    except UserError as why:
        sentence = f"torch.compile of {found.best.label} gave nothing: {why}."
        if "took more than" in str(why):
            sentence += " Raise --compile-seconds to wait for it."
    else:
        found.products.append(product)
        sentence = f"{product.label}: compiled in {cost.readable_seconds(product.compile_seconds)}."
    found.said["Time"].append(sentence)
    printer.say("Time", sentence)


def _write(found: Found, results: Path) -> None:
    with whole_file(results / FILE) as unfinished:
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    if code := drawing.draw_mine(results):
        raise typer.Exit(code)
    with whole_file(results / "mine.html") as unfinished:
        unfinished.write_text(page.html(found, results), encoding="utf-8")


def _print_table(found: Found) -> None:
    rows = page.table(found)
    head = [Column(name, min_width=max(map(len, name.split()))) for name in rows[0]]
    table = Table(*head, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in rows[1:]:
        table.add_row(*row)
    printing.console_of_tables().print(table)


class _Printer:
    """Prints each finding under its step, as it comes."""

    def __init__(self) -> None:
        self.step = ""
        self.console = printing.console(soft_wrap=True)

    def say(self, step: str, sentence: str) -> None:
        """Prints ``sentence``, under its step's name if that is new."""
        if step != self.step:
            self.console.print(f"{STEPS.index(step) + 1}. {step}")
            self.step = step
        self.console.print(f"   {sentence}")
