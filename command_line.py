"""How a command ends: an error a person can act on is one line, exit code 2.

Every script here calls `run(main)` as its last line. Anything else that goes
wrong is a bug of ours and keeps its traceback.
"""

import argparse
import os
import sys


class UserError(ValueError):
    """What came, what was expected, how to fix it: one line, no traceback."""


def positive_int(text):
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} given, at least 1 is needed")
    return value


def add_workers_flag(parser):
    """Adds `--workers` to a parser: threads that read photos."""
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=min(8, os.cpu_count() or 1),
        help="threads that read photos; any number gives the same result (default: %(default)s)",
    )


def run(main):
    """Calls `main()` and ends the process.

    Exit codes: 0 done, 2 an error the user can fix, 130 stopped by Ctrl-C.
    """
    # TensorFlow's start-up notes would drown the one line that matters.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    program = os.path.basename(sys.argv[0])
    try:
        main()
    except (UserError, OSError) as error:
        line = " ".join(str(error).split())
        print(f"{program}: error: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        sys.exit(130)
