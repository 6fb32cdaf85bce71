"""What lies in a weights folder: the files that a training or an evaluation writes (`FILES`).

Those of a stage are in `stage_files`; stored activations are no results. What else lies there
is somebody else's: `--restart` leaves it where it is. Loads no Keras.
"""

import pathlib

from pairs.errors import UserError
from pairs.photos.check import PHOTOS
from pairs.photos.folds import FOLDS, fold_folder, read_folds

SETTINGS = "settings.json"
CHECKPOINT = "checkpoint.npz"  # there while a training has not ended
START = "start.keras"
MODEL = "model.keras"
MODEL_PICTURE = "model.png"
PAIRS_PICTURE = "pairs.png"
CURVES = "curves.png"
LOG = "log.csv"
TIMES = "times.csv"
RESULTS = "results.json"
HELD_OUT = "held_out.npz"
SIMILARITY = "similarity.npz"
OUT_OF_FOLD = "out_of_fold.csv"
CALIBRATION = "calibration.json"
FILES = (  # settings first: without them nothing resumes what `--restart` has half moved
    *(SETTINGS, CHECKPOINT, START, MODEL, MODEL_PICTURE, PAIRS_PICTURE, CURVES, LOG, TIMES),
    *(RESULTS, HELD_OUT, SIMILARITY, OUT_OF_FOLD, CALIBRATION, PHOTOS, FOLDS),
)


def stage_files(folder: pathlib.Path, stage_name: str) -> list[pathlib.Path]:
    """Where a stage leaves its best and its last epoch's model."""
    return [folder / f"{stage_name}-{which}.keras" for which in ("best", "last")]


def model_files(weights: pathlib.Path) -> list[pathlib.Path]:
    """The model file of a weights folder, or those of its folds.

    Raises:
        UserError: it holds neither, or some folds are not trained yet; it is a file.
    """
    if weights.exists() and not weights.is_dir():
        raise UserError(f"{weights}: a file; its folder is wanted: --weights {weights.parent}")
    num_folds = max(read_folds(weights).values(), default=0)
    if not num_folds and (weights / MODEL).is_file():
        return [weights / MODEL]
    files = [fold_folder(weights, fold) / MODEL for fold in range(1, num_folds + 1)]
    there = [path for path in files if path.is_file()]
    if not files:
        raise UserError(f"{weights / MODEL}: no such model; python train.py makes one")
    if len(there) < len(files):
        missing = next(path for path in files if path not in there)
        one = f", or take one fold: --weights {there[0].parent}" if there else ""
        raise UserError(
            f"{missing}: not there yet ({len(there)} of {len(files)} folds are); "
            f"run the same train.py command again{one}"
        )
    return files
