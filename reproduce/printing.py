"""Printing, and how a command ends.

Text is printed as it is: no part of a path, a reason or a warning is interpreted as markup or as
an emoji. JSON is UTF-8, whatever the locale.
"""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import typer
from rich.console import Console

from reproduce.errors import UserError
from reproduce.results.rows import encodable

WIDTH_OF_FILES = 120
# How often a stream is flushed.
HOW_OFTEN = ("line_buffering", "write_through")
# Errors of writing to a disk for which the system names no file.
OF_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def console(**settings: Any) -> Console:
    """A console with rich's further ``settings``, which prints text as it is."""
    return Console(markup=False, emoji=False, highlight=False, **settings)


def console_of_tables() -> Console:
    """A console as wide as the terminal, or wide enough for tables if there is no terminal."""
    return console(width=None if console().is_terminal else WIDTH_OF_FILES)


def print_json(value: Any) -> None:
    """Prints ``value`` as JSON, in UTF-8."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    print(msgspec.json.encode(_encodable(msgspec.to_builtins(value))).decode())


def _encodable(value: Any) -> Any:
    """``value`` with `encodable` applied to all of its texts."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {_encodable(name): _encodable(each) for name, each in value.items()}
    return list(map(_encodable, value)) if isinstance(value, list | tuple) else value


class Output(io.TextIOWrapper):
    """Standard output, whose errors say that standard output could not be written."""

    def write(self, text: str) -> int:
        """Writes ``text``; returns its length.

        Raises:
            UserError: if that fails.
        """
        if text == "":  # by which click tells text from bytes, passing over what it raises
            return 0
        with self._named():
            return super().write(text)

    def flush(self) -> None:
        """Flushes what was written.

        Raises:
            UserError: if that fails.
        """
        with self._named():
            super().flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with open(os.devnull, "wb") as nowhere:  # where what is left goes when Python ends
                os.dup2(nowhere.fileno(), self.fileno())
            if error.errno == errno.EPIPE:  # nobody reads it any more, which is no fault
                raise
            raise UserError(
                f"standard output cannot be written ({error.strerror}); "
                "send it elsewhere, and run the same command again: all that was finished is kept"
            ) from None


def run(app: typer.Typer, name: str) -> None:
    """Runs the command line ``app``; a UserError ends it with one sentence and code 2.

    A standard stream that is closed is replaced by the null device, so that no other file can take
    its place.
    """
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, stream, os.fdopen(nowhere, mode, encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        kept = {name: getattr(sys.stdout, name) for name in ("encoding", *HOW_OFTEN)}
        sys.stdout = Output(sys.stdout.detach(), **kept)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        try:
            app(prog_name=name)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        sys.exit(1)
    except (UserError, OSError) as error:
        with suppress(OSError):
            sentence = unusable(error) if isinstance(error, OSError) else error
            print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)


def unusable(error: OSError) -> str:
    """The sentence for an unforeseen error of a disk or of the system."""
    again = "run the same command again: all that was finished is kept"
    why = error.strerror or error
    if error.filename is None and error.errno not in OF_DISKS:
        return (
            f"the system refused what a run needs ({why}); end other programs "
            f"or raise this one's limits, and {again}"
        )
    return (
        f"{error.filename or 'the results folder'} could not be read or written ({why}); "
        f"mend that or give another RESULTS, and {again}"
    )
