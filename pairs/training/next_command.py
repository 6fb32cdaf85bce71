"""What to type next: after a training, and after one that was stopped."""

import pathlib
import shlex

from pairs.network.weights_folder import SETTINGS
from pairs.photos.check import NOTHING, Facts, file_times
from pairs.photos.find import VALID


def print_next(data: str, weights: str, in_folds: bool) -> None:
    """Prints the commands that judge and use what was trained."""
    test = pathlib.Path(data, "test")
    folder = shlex.quote(str(test)) if test.is_dir() else "FOLDER"
    judged = shlex.quote(data) if in_folds else f"{shlex.quote(data)}/{VALID}"
    weights = shlex.quote(weights)
    print(
        f"next: python predict.py --weights {weights} --evaluate {judged} --report report\n"
        f"then: python predict.py --weights {weights} --test {folder}"
    )


def settings_times(weights: str) -> Facts:
    """When the settings were written that make a weights folder that of a run."""
    return file_times(pathlib.Path(weights, SETTINGS))


def how_to_resume(weights: str, restart: bool, before: Facts) -> str:
    """The advice to whoever stops a training.

    Once the new run has its settings, another `--restart` would delete what it has stored;
    before, it is the old run that is there.

    Args:
        weights, restart: of `train.py`.
        before: `settings_times` when the command began.
    """
    now = settings_times(weights)
    has_begun = now not in (before, NOTHING)
    if not has_begun and (restart or now == NOTHING):
        return "the training has not begun; run the same command again to begin it"
    without = ", without --restart," if restart else ""
    return f"run the same command again{without} to resume after the last finished epoch"
