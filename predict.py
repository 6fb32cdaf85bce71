"""Predicts the class of photos: the contest's submission file, or the error.

The model file brings its classes, image size and scaling; the training folder
is not needed.

    python predict.py --weights weights --test data/test --out predict.txt
    python predict.py --weights weights --evaluate data/valid
"""

import argparse
import os
import pathlib

import numpy as np

from atomic_file import write_text
from command_line import add_workers_flag, positive_int, run
from photo import find_class_photos, find_photos, read_ahead, read_photo

TOP = 5


class Predictor:
    """A trained model that turns photo files into class probabilities.

    Args:
        weights: folder that `train.py` wrote, with `model.keras` in it.
        batch_size: photos a forward pass.
        workers: threads that read photos.

    Attributes:
        typeids: list of str, what the columns of `probabilities` stand for.

    Raises:
        UserError: there is no model of ours in `weights`.
    """

    def __init__(self, weights, batch_size=32, workers=2):
        import model as network  # TensorFlow takes seconds to load

        model = network.load_model(pathlib.Path(weights, "model.keras"))
        self.typeids = model.get_layer("ctg_out_1").typeids
        self.photo_model = network.photo_model(model)
        self.image_size = self.photo_model.input_shape[1]
        self.batch_size = batch_size
        self.workers = workers

    def probabilities(self, paths):
        """Predicts photos.

        Args:
            paths: list of str.

        Returns:
            float32 array, shape `(len(paths), classes)`; rows sum to 1.
        """
        rows = []
        photos = read_ahead(lambda path: read_photo(path, self.image_size), paths, self.workers)
        batch = []
        for number, photo in enumerate(photos, start=1):
            batch.append(photo)
            if len(batch) == self.batch_size or number == len(paths):
                rows.append(np.asarray(self.photo_model.predict_on_batch(np.stack(batch))))
                batch = []
        return np.concatenate(rows)


def write_submission(predictor, test, out):
    """Writes one line a photo, `typeid<TAB>image id`, sorted by file name.

    The image id is the file name without its ending.

    Returns:
        Number of lines.
    """
    paths = find_photos(test)
    best = predictor.probabilities(paths).argmax(axis=1)
    lines = [
        f"{predictor.typeids[label]}\t{pathlib.Path(path).stem}\n"
        for label, path in zip(best, paths, strict=True)
    ]
    write_text(out, "".join(lines))
    return len(lines)


def measure(predictor, folder):
    """Predicts a folder of class folders and compares.

    Returns:
        dict: `photos`, `error` (share whose first guess is wrong) and
        `top5_error` (share whose class is not among the first five).
    """
    photos = find_class_photos(folder, predictor.typeids)
    probabilities = predictor.probabilities(photos.paths)
    # Stable: equal probabilities are ranked by label, the same on every machine.
    ranked = np.argsort(-probabilities, axis=1, kind="stable")
    hits = ranked == photos.labels[:, None]
    return {
        "photos": len(photos),
        "error": float(1 - hits[:, :1].any(axis=1).mean()),
        "top5_error": float(1 - hits[:, :TOP].any(axis=1).mean()),
    }


def parse_args():
    parser = argparse.ArgumentParser(description="Write the submission file, or print the error.")
    add = parser.add_argument
    add("--weights", default="weights", help="folder with model.keras (default: %(default)s)")
    add(
        "--test", default="data/test", help="folder of photos, nested or not (default: %(default)s)"
    )
    add("--out", default="predict.txt", help="submission file (default: %(default)s)")
    add("--evaluate", metavar="DIR", help="print the error on these class folders instead")
    add("--batch-size", type=positive_int, default=32, help="photos a pass (default: %(default)s)")
    add_workers_flag(parser)
    args = parser.parse_args()
    folder = args.evaluate or args.test
    if not os.path.isdir(folder):
        parser.error(f"{folder}: no such folder")
    return args


def main():
    args = parse_args()
    predictor = Predictor(args.weights, args.batch_size, args.workers)
    if args.evaluate:
        result = measure(predictor, args.evaluate)
        print(
            f"error {result['error']:.4f}, top-5 error {result['top5_error']:.4f} "
            f"({result['photos']} photos)"
        )
    else:
        num_lines = write_submission(predictor, args.test, args.out)
        print(f"{args.out}: {num_lines} photos")


if __name__ == "__main__":
    run(main)
