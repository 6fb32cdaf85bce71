"""The whole suite on drawn dogs: no data, no network, five minutes on two cores.

Draws a small fine-grained data set and runs the commands of the README on it,
each printed before it runs, so that a newcomer sees what to type.
"""

import pathlib
import runpy
import shlex
import shutil
import sys
import time

from pairs.demo import breeds
from pairs.training import run_folder

# Chosen for five minutes on two cores, not for the lowest error.
PHOTOS_PER_BREED = 36
TEST_PHOTOS_PER_BREED = 10
TRAINING = "--pretrained none --image-size 96 --batch-size 16 --epochs 8 2 2"
DATA, WEIGHTS = pathlib.Path("data", "demo"), pathlib.Path("weights", "demo")
ROOT = pathlib.Path(__file__).parents[2]


def run_demo(seed: int, workers: int) -> None:
    """Draws, sorts, trains, predicts; the last line it prints is the result.

    Args:
        seed: of the drawings and of the training.
        workers: threads that read photos.
    """
    start = time.perf_counter()
    raw, test, data = (DATA / f"{what}-{seed}" for what in ("raw", "test", "sorted"))
    with run_folder.locked(WEIGHTS):  # nobody trains on what is deleted here
        run_folder.remove_run(WEIGHTS)  # a demo shows the training again
        for folder in (raw, test, data):
            shutil.rmtree(folder, ignore_errors=True)  # another version may have drawn it
    print(f"drawing {len(breeds.BREEDS)} breeds into {DATA}", flush=True)
    breeds.draw_breeds(raw, PHOTOS_PER_BREED, seed=2 * seed)
    answers = breeds.draw_breeds(test, TEST_PHOTOS_PER_BREED, seed=2 * seed + 1, labelled=False)
    submission = WEIGHTS / "predict.txt"
    for command in (
        f"img2keras.py --raw {raw} --out {data} --seed {seed} --workers {workers}",
        f"train.py --data {data} --weights {WEIGHTS} {TRAINING} --seed {seed} --workers {workers}",
        f"predict.py --weights {WEIGHTS} --evaluate {data / 'valid'} --workers {workers}",
        f"predict.py --weights {WEIGHTS} --test {test} --out {submission} --workers {workers}",
    ):
        run_command(command)
    lines = submission.read_text(encoding="utf-8").splitlines()
    guesses = {image_id: typeid for typeid, image_id in (line.split("\t") for line in lines)}
    num_wrong = sum(guesses[image_id] != typeid for image_id, typeid in answers.items())
    print(
        f"{time.perf_counter() - start:.0f} s; {num_wrong} of {len(answers)} held-out photos wrong"
    )
    print(f"demo: error {num_wrong / len(answers):.4f}, chance {1 - 1 / len(breeds.BREEDS):.4f}")


def run_command(command: str) -> None:
    """Prints a command as a person would type it, and runs it in this process."""
    print(f"\n$ python {command}", flush=True)
    script, *words = shlex.split(command)
    sys.argv = [script, *words]
    runpy.run_path(str(ROOT / script), run_name="__main__")
