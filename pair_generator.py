"""Batches of image pairs made by swapping same-class images within a batch.

Reads the class folders that `img2keras.py` writes and feeds the two-input
network of `model.py`. The second image of every pair is another image of the
same batch: positive pairs for free, and no image is read twice. One rule holds
in every file: `same` is 1 where both images of a pair have one class, 0 where
they do not.

`swap_pairs` does it to the batches of any ImageDataGenerator; `train.py` uses
`PairBatches`, which reads photos on threads and can be resumed.

Look at a batch:  python pair_generator.py --data data/train --out pairs.png
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import ImageOps

from pairs.command_line import Parser, positive_int, run
from pairs.devices.sharding import groups
from pairs.errors import UserError
from pairs.files import replacing
from pairs.photos.augment import augment
from pairs.photos.draw import draw_pairs
from pairs.photos.find import find_class_photos
from pairs.photos.fit import FITS, SQUASH
from pairs.photos.partners import (
    class_members,
    close_cycles,
    cut_cycles,
    validation_order,
    validation_partners,
)
from pairs.photos.read import Photos
from pairs.training.flags import MAX_IMAGE_SIZE
from pairs.training.recipe import AUGMENTATION, RECIPES

# From this share of same-class pairs on, the pair head hardly sees another one.
MOSTLY_SAME = 0.9
# What a random generator is for: no two uses share their numbers. (A stage draws either mirror
# images or affine transforms.)
FOR_ORDER, FOR_PARTNERS, FOR_AUGMENTATION = 1, 2, 3


def swap_pairs(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], seed: int = 0
) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], dict[str, np.ndarray]]]:
    """Turns batches of images into batches of pairs, for the two-image model.

        flow = ImageDataGenerator(rotation_range=45).flow_from_directory("data/train")
        model.fit(swap_pairs(flow), steps_per_epoch=len(flow))

    Args:
        batches: yields `(images, labels)`, as `flow` and `flow_from_directory` do;
            labels are one-hot, shape `(batch, classes)`, or integers, shape
            `(batch,)`. The model scales images itself: leave them in 0..255.
        seed: of who meets whom.

    Yields:
        `((img_1, img_2), labels)`: labels are int32 arrays `ctg_out_1`, `ctg_out_2`
        and `bin_out`, for a sparse cross-entropy (`optimizer.compile_model`). A
        batch of one image, which has no pairs, is skipped.

    Raises:
        ValueError: a batch is something else.
    """
    rng = np.random.default_rng(seed)
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(
                f"a batch of type {type(batch).__name__}: (images, labels) is expected, e.g. of "
                f'flow_from_directory(..., class_mode="categorical")'
            )
        images, labels = (np.asarray(part) for part in batch)
        if labels.ndim == 2:
            labels = labels.argmax(axis=1) if labels.shape[1] > 1 else labels[:, 0]
        if labels.shape != images.shape[:1]:
            raise ValueError(f"{len(images)} images and labels of shape {labels.shape}: one each")
        if len(labels) < 2:
            continue
        first = labels.astype(np.int32)
        partner = swap_partners(first, rng)
        yield (images, images[partner]), pair_labels(first, partner)


def pair_labels(first: np.ndarray, partner: np.ndarray) -> dict[str, np.ndarray]:
    """Labels of all heads for a permuted batch; `first`: the class of each image."""
    second = first[partner]
    same = (first == second).astype(np.int32)
    return {"ctg_out_1": first, "ctg_out_2": second, "bin_out": same}


def swap_partners(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Permutes a batch so that same-class images trade places.

    Args:
        labels: int array, shape `(batch,)`: the class of each image.
        rng: breaks ties.

    Returns:
        int32 array, shape `(batch,)`, a permutation without fixed points:
        image `i` is paired with image `partner[i]`. Every image whose class is
        in the batch twice is in a same-class pair.

    Raises:
        ValueError: fewer than two images; nothing could be swapped.

    Source: the pair sampling of the 2017 entry; verification loss of arXiv:1611.05666.
    """
    labels = np.asarray(labels)
    cycles, singles = [], []
    for members in class_members(labels, rng):
        if len(members) > 1:
            cycles += cut_cycles(members)
        else:
            singles += members
    rng.shuffle(singles)
    # Singles are each of another class: whatever they trade is a negative pair.
    return close_cycles(len(labels), cycles, singles, shift=1)


class PairBatches:
    """The batches of one epoch after another, over all photos.

    A batch is a pure function of `(seed, epoch, step)`: any number of threads
    may ask for any step in any order. Set `epoch` between epochs.

    Args:
        photos: at least two.
        image_size: side in pixels.
        batch_size: images (= pairs) per batch, at least 2. The last batch may be
            shorter; a last batch of one photo joins the one before.
        seed: of everything random.
        augment: "affine": a random affine transform for every image; "mirror":
            each one mirrored or not; None: as they are. See `recipe.Stage`.
        validation: the same batches every epoch, half of the pairs positive.
        num_groups: partners are drawn within so many groups of a batch, see
            `groups`.
    """

    def __init__(
        self,
        photos: Photos,
        image_size: int,
        batch_size: int,
        seed: int,
        augment: str | None = None,
        validation: bool = False,
        num_groups: int = 1,
    ) -> None:
        if batch_size < 2 or len(photos) < 2:
            raise UserError(
                f"batch size {batch_size}, {len(photos)} photos to "
                f"{'validate' if validation else 'train'} on: at least 2 of each make a pair"
            )
        self.photos = photos
        self.image_size = image_size
        self.batch_size = batch_size
        self.seed = seed
        self.validation = validation
        self.num_groups = num_groups
        self.augment = augment
        self.epoch = 0
        self.epoch_order: tuple[int, np.ndarray] = (-1, np.array([], int))

    def __len__(self) -> int:
        return max(
            1, len(self.photos) // self.batch_size + (len(self.photos) % self.batch_size > 1)
        )

    def rng(self, use: int, step: int = 0, epoch: int | None = None) -> np.random.Generator:
        """A generator that depends on seed, epoch (None: the current one), use and step alone."""
        epoch = self.epoch if epoch is None else epoch
        return np.random.default_rng([self.seed, 0 if self.validation else epoch, use, step])

    def order(self) -> np.ndarray:
        """int array, shape `(len(photos),)`: the photos in this epoch's order."""
        epoch = 0 if self.validation else self.epoch
        drawn_for, order = self.epoch_order
        if drawn_for != epoch:
            # Drawn once an epoch: every step asks, and there may be many photos.
            # Threads may draw it twice; they draw the same.
            rng, labels = self.rng(FOR_ORDER, epoch=epoch), self.photos.labels
            order = (
                validation_order(labels, rng) if self.validation else rng.permutation(len(labels))
            )
            self.epoch_order = epoch, order
        return order

    def indices(self, step: int) -> np.ndarray:
        """int array: which photos the batch of `step` holds."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        start = step * self.batch_size
        stop = None if step == len(self) - 1 else start + self.batch_size
        return self.order()[start:stop]

    def pairs(self, step: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Who meets whom, without reading a photo.

        Returns:
            `(indices, partner, labels)`: int arrays, shape `(batch,)`, and int32
            arrays `ctg_out_1` (class of the first image),
            `ctg_out_2` (of the second) and `bin_out` (`same`, 0 or 1).
        """
        indices = self.indices(step)
        first = self.photos.labels[indices]
        swap = validation_partners if self.validation else swap_partners
        rng = self.rng(FOR_PARTNERS, step)
        members = groups(len(first), self.num_groups)
        partner = np.concatenate([swap(first[own], rng) + own.start for own in members])
        return indices, partner, pair_labels(first, partner)

    def mirrored(self, step: int) -> np.ndarray:
        """bool array, shape `(batch,)`: which images of a step are mirrored."""
        count = len(self.indices(step))
        if self.augment != "mirror":
            return np.zeros(count, bool)
        return self.rng(FOR_AUGMENTATION, step).random(count) < 0.5

    def __getitem__(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """One batch.

        Returns:
            `(inputs, labels)`: `inputs` holds `img_1`, uint8 array of shape
            `(batch, image_size, image_size, 3)`, and `partner`, int32 array of
            shape `(batch,)`; the second images are `img_1[partner]`. `labels`
            as in `pairs`.
        """
        _, partner, labels = self.pairs(step)
        return {"img_1": self.images(step, range(len(partner))), "partner": partner}, labels

    def images(self, step: int, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Reads some images of a batch, augmented as the batch has them.

        Args:
            step: of the batch.
            rows: positions in it.

        Returns:
            uint8 array, shape `(len(rows), image_size, image_size, 3)`.
        """
        indices, mirrored = self.indices(step), self.mirrored(step)
        seeds = self.rng(FOR_AUGMENTATION, step).integers(2**32, size=len(indices))
        images = []
        for row in rows:
            image = self.photos.open(indices[row], self.image_size)
            if self.augment == "affine":
                image = augment(image, int(seeds[row]), AUGMENTATION)
            if mirrored[row]:
                image = ImageOps.mirror(image)
            images.append(np.asarray(image))
        return np.stack(images)


def note_on_pairs(batches: PairBatches) -> str | None:
    """What to know if nearly all pairs are of one class, or None: few classes, large batches."""
    steps = range(min(20, len(batches)))
    same = np.concatenate([batches.pairs(step)[2]["bin_out"] for step in steps])
    if same.mean() < MOSTLY_SAME:
        return None
    return (
        f"note: {same.mean():.0%} of the pairs show the same class: with "
        f"{len(batches.photos.typeids)} classes, a batch of {batches.batch_size} contains each one "
        f"many times, and the pair head sees few pairs of different classes; "
        f"train.py --recipe tuned compares all photos of a batch"
    )


def parse_args(argv=None):
    parser = Parser(description="Draw one batch of pairs with their labels.")
    parser.add_argument("--data", default="data/train", help="class folders (default: %(default)s)")
    parser.add_argument("--out", default="pairs.png", help="picture file (default: %(default)s)")
    parser.add_argument(
        "--image-size", type=positive_int, default=160, help="side in pixels (default: 160)"
    )
    parser.add_argument("--batch-size", type=positive_int, default=32, help="images (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument(
        "--fit", choices=FITS, default=SQUASH, help="as in train.py (default: squash)"
    )
    parser.add_argument(
        "--recipe", choices=RECIPES, help="recipe whose augmentation is shown (default: seed)"
    )
    parser.add_argument("--no-augment", action="store_true", help="show photos unaugmented")
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: 0 or more is needed")
    if args.recipe and args.no_augment:
        parser.error("--recipe and --no-augment cannot be combined; give one")
    out = pathlib.Path(args.out)
    if out.suffix.lower() not in (".png", ".jpg"):
        parser.error(f"--out {out}: the name must end in .png or .jpg")
    if not out.parent.is_dir():
        parser.error(f"--out {out}: the folder {out.parent} does not exist; create it first")
    if out.resolve().is_relative_to(pathlib.Path(args.data).resolve()):
        parser.error(f"--out {out}: among the photos of --data; choose another folder")
    if args.image_size > MAX_IMAGE_SIZE:
        parser.error(f"--image-size {args.image_size}: at most {MAX_IMAGE_SIZE} pixels")
    return args


def main():
    args = parse_args()
    photos = dataclasses.replace(find_class_photos(args.data), fit=args.fit)
    plan = RECIPES[args.recipe or "seed"]
    augmentation = None if args.no_augment else plan.stages[0].augment
    batches = PairBatches(photos, args.image_size, args.batch_size, args.seed, augmentation)
    batch = batches[0]
    with replacing(args.out) as temporary:
        draw_pairs(batch, photos.typeids).save(temporary)
    same = int(batch[1]["bin_out"].sum())
    print(f"{args.out}: {len(batch[1]['bin_out'])} pairs, {same} of them of one class")
    if plan.all_pairs:
        print(f"--recipe {args.recipe} compares all photos of a batch, not only these pairs")
    elif note := note_on_pairs(batches):
        print(note)


if __name__ == "__main__":
    run(main)
