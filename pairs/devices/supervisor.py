"""Ends a process of a cluster as people expect when another one is lost.

Every process runs as the child of one that only watches it: the C++ below JAX
aborts with a page of text, or a collective operation fails, and either becomes
one line and exit code 2.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import NoReturn

from pairs.command_line import program
from pairs.errors import UserError

SUPERVISED = "PAIRS_SUPERVISED"
# What JAX raises, or the C++ below it dies with, where another process is lost.
IS_LOST = re.compile(r"gloo|nccl|coordination|distributed service|heartbeat|barrier", re.IGNORECASE)
# How that C++ begins the lines that it dies with, and those before them.
DYING = re.compile(r"F\d{4} \d\d:\d\d:\d\d|E\d{4} .*coordination_service")
LOST = (
    "another process of the cluster has died or cannot be reached; see its own last line, then "
    "run the same command in all of them to resume after the last finished epoch"
)


def supervise() -> NoReturn:
    """Runs this very command as a child process; ends with its exit code, or one line for it."""
    child = subprocess.Popen(
        # Not sys.argv: another script (experiments/variants.py) may have called us.
        [sys.executable, *sys.orig_argv[1:]],
        env={**os.environ, SUPERVISED: "1"},
        stdin=subprocess.PIPE,  # its end tells the child that we are gone
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    lines: list[str] = []  # its last words
    has_own_line = False
    for line in child.stderr or ():
        if line.startswith(f"{program()}: error"):
            lines, has_own_line = [], True
        if lines or DYING.match(line):
            lines.append(line)
        else:
            print(line, end="", file=sys.stderr, flush=True)
    code = child.wait()
    if has_own_line:  # and may still have been aborted
        sys.exit(2)
    last_words = "".join(lines)
    if code == -signal.SIGABRT and IS_LOST.search(last_words):
        raise UserError(LOST)
    print(last_words, end="", file=sys.stderr)
    if code < 0:
        raise UserError(
            f"ended by {signal.Signals(-code).name} (SIGKILL is often the system's, out of "
            f"memory); run the same command in all processes to resume"
        )
    sys.exit(code)


def is_supervised() -> bool:
    """Whether this process is the child of `supervise`."""
    return SUPERVISED in os.environ


def end_with_parent() -> None:
    """From now on a child of `supervise` ends when its parent does."""

    def wait():
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def one_line_errors(num_processes: int) -> Iterator[None]:
    """Ends this process with one line where another one is lost.

    Nothing is cleaned up then: what JAX does at a proper end waits for all.
    """
    try:
        yield
    except Exception as error:
        if num_processes == 1:
            raise
        sys.stdout.flush()
        line = " ".join(str(error).split())
        if not isinstance(error, (UserError, OSError)):
            if not IS_LOST.search(line):
                traceback.print_exc()
                os._exit(1)
            line = f"{LOST} ({line[:200]})"
        print(f"{program()}: error: {line}", file=sys.stderr, flush=True)
        os._exit(2)
