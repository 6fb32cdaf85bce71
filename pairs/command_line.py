"""How a command ends: an error a person can act on is one line, exit code 2.

Every script here calls `run(main)` as its last line. Anything else that goes
wrong is a bug of ours and keeps its traceback.
"""

import argparse
import contextlib
import io
import logging
import os
import pathlib
import re
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pairs.errors import UserError

MAX_WORKERS = 256
# What is listed one by one; the rest is counted.
MOST_LISTED = 20


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong flag is one line; `--help` has the rest."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """The flags. An empty name, of a shell variable that is not set, is refused."""
        parsed = super().parse_args(*args, **kwargs)
        for name, value in vars(parsed).items():
            if "" in (value if isinstance(value, list) else [value]):
                flag = f"--{name.replace('_', '-')}"
                known = flag if flag in self.format_usage() else name  # of what has no flag
                self.error(f"{known}: an empty name was given")
        return parsed

    def given(self, args: argparse.Namespace, besides: Sequence[str]) -> list[str]:
        """The flags that are not as by default, "--batch-size", besides those of some names."""
        return [
            f"--{name.replace('_', '-')}"
            for name, value in vars(args).items()
            if name not in besides and value != self.get_default(name)
        ]


def program() -> str:
    """The name of the running script, as its error lines begin."""
    return os.path.basename(sys.argv[0])


def whole_number(text: str) -> int:
    """An argparse type: an integer. argparse would name this function to people, not the fault."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} given, a whole number is needed") from None


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = whole_number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} given, at least 1 is needed")
    return value


def num_workers(text: str) -> int:
    """An argparse type: a number of threads that a system grants."""
    value = positive_int(text)
    if value > MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"{text} given, at most {MAX_WORKERS} are allowed")
    return value


def add_workers_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--workers` to a parser: threads that read photos."""
    parser.add_argument(
        "--workers",
        type=num_workers,
        default=min(8, os.cpu_count() or 1),
        help="threads that read photos; any number gives the same result (default: %(default)s)",
    )


def add_openvino_flag(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--openvino` to a parser: OpenVINO computes `what`, not Keras."""
    parser.add_argument(
        "--openvino",
        choices=("float32", "bfloat16"),
        help=f"compute {what} with OpenVINO, faster on a CPU (requirements-cpu.txt); float32: the "
        "same up to rounding; bfloat16: only on CPUs with bfloat16 hardware (default: off)",
    )


def run(main: Callable[[], None]) -> None:
    """Calls `main()` and ends the process.

    Exit codes: 0 done, 2 an error the user can fix, 130 stopped by Ctrl-C, 141 nobody
    reads what is printed (`| head`).
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # of a service; Keras and tqdm write to both
            setattr(sys, name, pathlib.Path(os.devnull).open("w"))  # noqa: SIM115  for good
    # Names come in any script, and some in none; not every terminal can show them.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # TensorFlow's start-up notes would drown the one line that matters.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # One model after another is traced on purpose.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # Pillow warns of damage in photos that it can read; those that it cannot are named.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        main()
        sys.stdout.flush()
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            sys.exit(141)
        text = str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            text = f"{error.filename}: {error.strerror}"  # without "[Errno 13]"
        print(f"{program()}: error: {one_line(text)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{program()}: stopped", file=sys.stderr)
        sys.exit(130)


def one_line(text: str) -> str:
    """A text as one line that no name in it can forge, nor move the cursor of a terminal."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode()
        for sign in re.sub(r"\s*[\r\n]\s*", " ", text.strip())
    )


def nobody_reads() -> bool:
    """Whether the reader of standard output has left; then it leads nowhere from now on."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def stop_at_once(how_to_resume: Callable[[], str]) -> None:
    """Makes Ctrl-C and SIGTERM end the process at once, with one line.

    Python runs a signal's handler between two bytecodes, and one training step
    may be a minute away. The byte that `set_wakeup_fd` sends is written in
    the middle of it, and a thread waits for it. Nothing is cleaned up: what
    calls this must survive `kill -9` anyway.

    Whoever calls it first in a process decides: a demo, not the training within it.

    Args:
        how_to_resume: returns the end of the line, asked when it is printed.
    """
    if signal.getsignal(signal.SIGINT) is leave_it_to_the_thread:
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach())  # open as long as the process
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave_it_to_the_thread)

    def wait():
        number = reader.recv(1)[0]
        line = f"\nstopped by {signal.Signals(number).name}; {how_to_resume()}\n"
        with contextlib.suppress(OSError):  # nobody may be reading any more
            os.write(2, line.encode())
        os._exit(128 + number)

    threading.Thread(target=wait, daemon=True).start()


def leave_it_to_the_thread(*_: object) -> None:
    """A signal's handler: the thread of `stop_at_once` ends the process."""


def print_first(what: str, texts: list[str]) -> None:
    """Prints a line for each of the first `MOST_LISTED` texts, and how many more there are."""
    for text in texts[:MOST_LISTED]:
        print(f"{what}: {text}")
    if len(texts) > MOST_LISTED:
        print(f"{what}: and {len(texts) - MOST_LISTED} more")
