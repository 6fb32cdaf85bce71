"""Predicts the class of photos: the contest's submission file, or the error.

The model file brings its classes, image size and scaling; the training folder
is not needed.

    python predict.py --weights weights --test data/test --out predict.txt
    python predict.py --weights weights --evaluate data/valid
"""

import os
import pathlib
import re
import sys

import numpy as np
from tqdm import tqdm

from atomic_file import write_text
from command_line import Parser, UserError, add_workers_flag, positive_int, run
from photo import find_class_photos, find_photos, read_ahead, read_photo

TOP = 5
# What a reader of the submission may take for the end of a line or of an id.
BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


class Predictor:
    """A trained model that turns photo files into class probabilities.

    Args:
        weights: folder that `train.py` wrote, with `model.keras` in it.
        batch_size: photos a forward pass.
        workers: threads that read photos.

    Attributes:
        typeids: list of str, what the columns of `probabilities` stand for.
        most_frequent: int, the label with the most training photos.

    Raises:
        UserError: there is no model of ours in `weights`.
    """

    def __init__(self, weights, batch_size=32, workers=2):
        import model as network  # TensorFlow takes seconds to load

        model = network.load_model(pathlib.Path(weights, "model.keras"))
        head = model.get_layer("ctg_out_1")
        self.typeids = head.typeids
        self.most_frequent = int(np.argmax(head.num_photos))
        self.photo_model = network.photo_model(model)
        self.image_size = self.photo_model.input_shape[1]
        self.batch_size = batch_size
        self.workers = workers

    def probabilities(self, paths):
        """Predicts photos.

        Args:
            paths: list of str.

        Returns:
            float32 array, shape `(len(paths), classes)`; rows sum to 1, but for
            photos that cannot be read: these are named, their rows NaN.
        """
        blank = np.zeros((self.image_size, self.image_size, 3), np.uint8)
        photos = read_ahead(self.read_or_none, paths, self.workers)
        rows, batch = [], []
        for number, photo in enumerate(tqdm(photos, total=len(paths), disable=None), start=1):
            batch.append(photo)
            if len(batch) == self.batch_size or number == len(paths):
                images = np.stack([blank if photo is None else photo for photo in batch])
                found = np.array(self.photo_model.predict_on_batch(images))
                found[[photo is None for photo in batch]] = np.nan
                rows.append(found)
                batch = []
        return np.concatenate(rows)

    def read_or_none(self, path):
        """The pixels of a photo; None, and its name printed, where it cannot be read."""
        try:
            return read_photo(path, self.image_size)
        except UserError as error:
            print(error, file=sys.stderr)
            return None


def write_submission(predictor, test, out):
    """Writes one line a photo, `typeid<TAB>image id`, sorted by file name.

    The image id is the file name without its ending. A photo that cannot be
    read gets the most frequent class.

    Returns:
        `(num_lines, num_unreadable)`.
    """
    paths = find_photos(test)
    probabilities = predictor.probabilities(paths)
    unreadable = np.isnan(probabilities).any(axis=1)
    labels = np.where(unreadable, predictor.most_frequent, probabilities.argmax(axis=1))
    lines = [
        f"{predictor.typeids[label]}\t{image_id(path)}\n"
        for label, path in zip(labels, paths, strict=True)
    ]
    write_text(out, "".join(lines))
    return len(lines), int(unreadable.sum())


def image_id(path):
    """A file's name without its ending; what would break a line is escaped."""
    return BREAKS.sub(lambda found: repr(found[0])[1:-1], pathlib.Path(path).stem)


def measure(predictor, folder):
    """Predicts a folder of class folders and compares.

    Returns:
        dict: `photos` (the readable ones), `error` (share whose first guess is wrong) and
        `top5_error` (share whose class is not among the first five).
    """
    photos = find_class_photos(folder, predictor.typeids)
    probabilities = predictor.probabilities(photos.paths)
    readable = np.flatnonzero(~np.isnan(probabilities).any(axis=1))
    if not len(readable):
        raise UserError(f"{folder}: none of its {len(photos)} photos can be read")
    photos, probabilities = photos.take(readable), probabilities[readable]
    # Stable: equal probabilities are ranked by label, the same on every machine.
    ranked = np.argsort(-probabilities, axis=1, kind="stable")
    hits = ranked == photos.labels[:, None]
    return {
        "photos": len(photos),
        "error": float(1 - hits[:, :1].any(axis=1).mean()),
        "top5_error": float(1 - hits[:, :TOP].any(axis=1).mean()),
    }


def parse_args():
    parser = Parser(description="Write the submission file, or print the error.")
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
    model_file = pathlib.Path(args.weights, "model.keras")
    if not model_file.is_file():
        parser.error(f"{model_file}: no such model; python train.py makes one")
    out = pathlib.Path(args.out)
    if not args.evaluate and (out.is_dir() or not out.parent.is_dir()):
        parser.error(f"--out {out}: not a file in a folder that is there")
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
        num_lines, num_unreadable = write_submission(predictor, args.test, args.out)
        unreadable = f", {num_unreadable} of them not readable" if num_unreadable else ""
        print(f"{args.out}: {num_lines} photos{unreadable}")


if __name__ == "__main__":
    run(main)
