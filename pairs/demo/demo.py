"""The whole suite on drawn dogs: no data, no network, five minutes on two cores.

Draws a small fine-grained data set, sorts it, trains the recipe's three stages
on a random Xception at a small image size, and predicts photos it never saw.
"""

import pathlib
import shutil
import time

import img2keras
import train
from pairs.demo import breeds
from pairs.evaluation.predictor import Predictor
from pairs.training import run_folder

# Chosen for five minutes on two cores, not for the lowest error.
PHOTOS_PER_BREED = 36
TEST_PHOTOS_PER_BREED = 10
IMAGE_SIZE = 96
BATCH_SIZE = 16
EPOCHS = (8, 2, 2)
DATA, WEIGHTS = pathlib.Path("data", "demo"), pathlib.Path("weights", "demo")


def run_demo(seed, workers):
    """Draws, sorts, trains, predicts; the last line it prints is the result.

    Args:
        seed: int, of the drawings and of the training.
        workers: threads that read photos.
    """
    start = time.perf_counter()
    raw, test = DATA / f"raw-{seed}", DATA / f"test-{seed}"
    print(f"drawing {len(breeds.BREEDS)} breeds into {DATA}")
    breeds.draw_breeds(raw, PHOTOS_PER_BREED, seed=2 * seed)
    answers = breeds.draw_breeds(test, TEST_PHOTOS_PER_BREED, seed=2 * seed + 1, labelled=False)
    sorted_data = DATA / f"sorted-{seed}"
    shutil.rmtree(sorted_data, ignore_errors=True)  # another version may have drawn it
    img2keras.print_table(img2keras.sort_photos(raw, sorted_data, seed=seed, workers=workers))

    flags = (
        f"--data {sorted_data} --weights {WEIGHTS} --pretrained none --image-size {IMAGE_SIZE} "
        f"--batch-size {BATCH_SIZE} --seed {seed} --workers {workers} "
        f"--epochs {' '.join(map(str, EPOCHS))}"
    )
    with run_folder.locked(WEIGHTS):  # a demo shows the training again
        run_folder.remove_run(WEIGHTS)
    args = train.parse_args(flags.split())
    train.train(args)

    predictor = Predictor(WEIGHTS, workers=workers)
    paths = [str(test / f"{image_id}.jpg") for image_id in answers]
    guesses = predictor.predict(paths).probabilities.argmax(axis=1)
    num_wrong = sum(
        predictor.typeids[guess] != typeid
        for guess, typeid in zip(guesses, answers.values(), strict=True)
    )
    print(
        f"{time.perf_counter() - start:.0f} s; {num_wrong} of {len(answers)} held-out photos wrong"
    )
    print(f"demo: error {num_wrong / len(answers):.4f}, chance {1 - 1 / len(breeds.BREEDS):.4f}")
