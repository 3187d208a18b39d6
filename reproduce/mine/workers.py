"""A process for the user's file, so that this process loads neither the file nor a framework."""

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from reproduce.errors import UserError
from reproduce.machine import memory
from reproduce.measuring import endings

LOGS = "logs"
ENDING_SECONDS = 10.0
Say = Callable[[str, str], None]


def run(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    folder: Path,
    say: Say | None = None,
    limit_seconds: float | None = None,
) -> Any:
    """What ``function`` returns in a new process; what that prints goes to the log of its name.

    If ``say`` is given, the function's first argument is one that takes a step and a sentence.

    Raises:
        UserError: if the function raises it, fails in another way, or takes too long.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    log = folder / LOGS / f"{function.__name__}.log"
    whole = (_run, sending, log, function, arguments, say is not None)
    process = context.Process(target=endings.run_while_parent_lives, args=whole)
    kills_before = endings.kills_for_memory()
    process.start()
    sending.close()
    try:
        while receiving.poll(limit_seconds):
            kind, found = receiving.recv()
            if kind == "said" and say is not None:
                say(*found)
            elif kind == "refused":
                raise UserError(found)
            elif kind == "returned":
                process.join(ENDING_SECONDS)  # or it would leave semaphores behind
                return found
        raise UserError(f"it took more than {limit_seconds:g} s")
    except EOFError:
        ended = endings.early_end(process, kills_before)
        raise UserError(
            f"the process with your file did not end well: {ended.reason}; see {log}"
        ) from None
    finally:
        process.kill()
        process.join()


def _run(
    connection: Connection,
    log: Path,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    does_say: bool,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with log.open("w") as stream:
        os.dup2(stream.fileno(), sys.stdout.fileno())
        os.dup2(stream.fileno(), sys.stderr.fileno())
    memory.keep_freed_memory()  # first, as what is timed wants it

    def say(step: str, sentence: str) -> None:
        connection.send(("said", (step, sentence)))

    try:
        connection.send(("returned", function(*([say] if does_say else []), *arguments)))
    except UserError as error:
        connection.send(("refused", str(error)))
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        connection.close()
