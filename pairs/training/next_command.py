"""What to type next: after a training, and after one that was stopped."""

import argparse
import pathlib
import shlex

from pairs.network.weights_folder import SETTINGS
from pairs.photos.check import NOT_THERE, Facts, file_times
from pairs.photos.find import VALID


def print_next(args: argparse.Namespace) -> None:
    """Prints the commands that judge and use what was trained."""
    quoted = {name: shlex.quote(getattr(args, name)) for name in ("data", "weights")}
    test = pathlib.Path(args.data, "test")
    folder = shlex.quote(str(test)) if test.is_dir() else "FOLDER"
    judged = quoted["data"] if args.folds else f"{quoted['data']}/{VALID}"
    print(
        f"next: python predict.py --weights {quoted['weights']} "
        f"--evaluate {judged} --report report\n"
        f"then: python predict.py --weights {quoted['weights']} --test {folder}"
    )


def settings_times(args: argparse.Namespace) -> Facts:
    """When the settings were written that make the weights folder that of a run."""
    return file_times(pathlib.Path(args.weights, SETTINGS))


def how_to_resume(args: argparse.Namespace, before: Facts) -> str:
    """The advice to whoever stops a training.

    Once the new run has its settings, another `--restart` would delete what it has stored.

    Args:
        args: of `train.py`.
        before: `settings_times` when the command began.
    """
    has_begun = settings_times(args) not in (before, NOT_THERE)
    without = ", without --restart," if args.restart and has_begun else ""
    return f"run the same command again{without} to resume after the last finished epoch"
