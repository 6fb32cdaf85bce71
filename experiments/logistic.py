"""The baseline: a logistic regression on the frozen trunk's features.

Photos pass the trunk once, as they are; scikit-learn does the rest. How much it is
regularised is chosen on the validation photos.

Run it:  python -m experiments.logistic --data data/folds/fold-1 --test data/folds/fold-1/test \\
             --pretrained FILE --image-size 139
"""

import pathlib
import time

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.predictions import predict_photos
from pairs.command_line import Parser, positive_int, run
from pairs.network.trunks import TRUNKS, build_trunk
from pairs.photos.find import find_class_photos

STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # scikit-learn's C


def trunk_features(trunk, photos, image_size):
    """The trunk's features of photos: float32 array, shape `(photos, features)`."""
    scale, offset = map(np.float32, trunk.input_scale)

    def features(images):
        return {"features": np.asarray(trunk.predict_on_batch(images * scale + offset))}

    return predict_photos(features, photos, image_size)["features"]


def best_fit(train, valid):
    """Fits on training photos; the strength of the penalty is chosen on validation photos.

    Args:
        train, valid: `(features, labels)`.

    Returns:
        `(classifier, strength)`.
    """
    fits = {
        strength: make_pipeline(
            StandardScaler(), LogisticRegression(C=strength, max_iter=1000)
        ).fit(*train)
        for strength in STRENGTHS
    }
    best = max(STRENGTHS, key=lambda strength: fits[strength].score(*valid))
    return fits[best], best


def parse_args(argv=None):
    parser = Parser(description="A logistic regression on the features of a frozen trunk.")
    add = parser.add_argument
    add("--data", type=pathlib.Path, default="data", help="with train/, valid/ (default: data)")
    add("--test", type=pathlib.Path, required=True, help="class folders to judge on")
    add("--trunk", choices=TRUNKS, default="xception", help="default: %(default)s")
    add("--pretrained", default="imagenet", help="as train.py's (default: %(default)s)")
    add("--image-size", type=positive_int, default=299, help="pixels (default: %(default)s)")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    train = find_class_photos(args.data / "train")
    valid, test = (
        find_class_photos(folder, train.typeids) for folder in (args.data / "valid", args.test)
    )
    trunk = build_trunk(args.trunk, args.image_size, args.pretrained, "weights")
    start = time.process_time()
    known = [(trunk_features(trunk, side, args.image_size), side.labels) for side in (train, valid)]
    classifier, strength = best_fit(*known)
    seconds = time.process_time() - start
    wrong = classifier.predict(trunk_features(trunk, test, args.image_size)) != test.labels
    deviation = wrong.std() / np.sqrt(len(wrong))
    print(
        f"{args.trunk}, {args.image_size} pixels, C={strength}: error {wrong.mean():.4f} ± "
        f"{deviation:.4f} ({len(wrong)} photos); {seconds:.0f} s of processor time to fit"
    )


if __name__ == "__main__":
    run(main)
