"""Batches of image pairs made by swapping same-class images within a batch.

Reads the class folders that `img2keras.py` writes and feeds the two-input
network of `model.py`. The second image of every pair is another image of the
same batch: positive pairs for free, and no image is read twice. One rule holds
in every file: `same` is 1 where both images of a pair have one class, 0 where
they do not.

Look at a batch:  python pair_generator.py --data data/train --out pairs.png
"""

import functools
import math
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pairs.command_line import Parser, UserError, positive_int, run
from pairs.files import replacing
from pairs.photos.augment import augment, make_augmenter
from pairs.photos.read import find_class_photos

# What a random generator is for: no two uses share their numbers.
FOR_ORDER, FOR_PARTNERS, FOR_AUGMENTATION = 1, 2, 3


def swap_partners(labels, rng):
    """Permutes a batch so that same-class images trade places.

    Args:
        labels: int array, shape `(batch,)`: the class of each image.
        rng: `numpy.random.Generator` that breaks ties.

    Returns:
        int32 array, shape `(batch,)`, a permutation without fixed points:
        image `i` is paired with image `partner[i]`. Every image whose class is
        in the batch twice is in a same-class pair.

    Raises:
        ValueError: fewer than two images; nothing could be swapped.

    Source: the seed's pair sampling; verification loss of arXiv:1611.05666.
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


def validation_partners(labels, rng):
    """Permutes a batch so that about half of its pairs are of one class.

    `swap_partners` follows what the batch happens to hold, and with few classes
    that is positive pairs only; a validation that never saw a negative pair
    could not tell whether the pair head works.

    Args and returns: as `swap_partners`.
    """
    labels = np.asarray(labels)
    members = class_members(labels, rng)
    couples = []
    while len(couples) < len(labels) // 4:
        # From the largest class, so that no class is left alone in the rest.
        largest = max(members, key=len)
        if len(largest) < 2:
            break
        couples.append([largest.pop(), largest.pop()])
    coupled = {index for couple in couples for index in couple}
    rest = [index for index in np.argsort(labels, kind="stable").tolist() if index not in coupled]
    # Sorted by class and shifted by the size of the largest class, every image
    # meets another class (unless that class is more than half of them).
    shift = min(max(map(len, members)), len(rest) // 2)
    return close_cycles(len(labels), couples, rest, shift)


def class_members(labels, rng):
    """Positions of each class of a batch, shuffled: a list of lists."""
    members = [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]
    for positions in members:
        rng.shuffle(positions)
    return members


def cut_cycles(members):
    """Cuts a list of at least two into swaps of two; an odd one makes a three."""
    cycles = [members[start : start + 2] for start in range(0, len(members) - 1, 2)]
    if len(members) % 2:
        cycles[-1] = cycles[-1] + members[-1:]
    return cycles


def close_cycles(num_images, cycles, rest, shift):
    """Turns cycles, and the rest rotated by `shift`, into a permutation."""
    if num_images < 2:
        raise ValueError(f"a batch of {num_images} image has no pairs; at least 2 are needed")
    if len(rest) == 1:  # a lonely image would meet itself: it joins a neighbour
        cycles = [cycles[0] + rest, *cycles[1:]]
        rest = []
    partner = np.empty(num_images, np.int32)
    for cycle in cycles:
        partner[cycle] = np.roll(cycle, -1)
    if rest:
        partner[rest] = np.roll(rest, -shift)
    return partner


def groups(count, num_groups):
    """Divides the images of a batch into groups that are paired apart from each other.

    Returns:
        list of range: as even as they can be, each of at least two images (for
        few images fewer groups).
    """
    parts = np.array_split(np.arange(count), max(1, min(num_groups, count // 2)))
    return [range(part[0], part[-1] + 1) for part in parts]


def validation_order(labels, rng):
    """Orders photos once for all epochs, couples of one class side by side."""
    couples = []
    for members in class_members(labels, rng):
        couples += [members[start : start + 2] for start in range(0, len(members), 2)]
    rng.shuffle(couples)
    return np.array([index for couple in couples for index in couple])


class PairBatches:
    """The batches of one epoch after another, over all photos.

    A batch is a pure function of `(seed, epoch, step)`: any number of threads
    may ask for any step in any order. Set `epoch` between epochs.

    Args:
        photos: `photo.Photos`, at least two.
        image_size: side in pixels.
        batch_size: images (= pairs) a batch, at least 2. The last batch is as
            long as it comes; a last batch of one photo joins the one before.
        seed: int.
        augment: "affine": a random affine transform for every image; "mirror":
            each one mirrored or not; None: as they are. See `recipe.Stage`.
        validation: the same batches every epoch, half of the pairs positive.
        num_groups: partners are drawn within so many groups of a batch, see
            `groups`.
    """

    def __init__(
        self,
        photos,
        image_size,
        batch_size,
        seed,
        augment=None,
        validation=False,
        num_groups=1,
    ):
        if batch_size < 2 or len(photos) < 2:
            raise UserError(
                f"batch size {batch_size}, {len(photos)} photos: at least 2 of each make a pair"
            )
        self.photos = photos
        self.image_size = image_size
        self.batch_size = batch_size
        self.seed = seed
        self.validation = validation
        self.num_groups = num_groups
        self.augment = augment
        self.augmenter = make_augmenter() if augment == "affine" else None
        self.epoch = 0
        self.epoch_order = (None, None)

    def __len__(self):
        return max(
            1, len(self.photos) // self.batch_size + (len(self.photos) % self.batch_size > 1)
        )

    def rng(self, use, step=0, epoch=None):
        """A generator that depends on seed, epoch (None: the current one), use and step alone."""
        epoch = self.epoch if epoch is None else epoch
        return np.random.default_rng([self.seed, 0 if self.validation else epoch, use, step])

    def order(self):
        """int array, shape `(len(photos),)`: the photos in this epoch's order."""
        if self.validation:
            return self.fixed_order
        epoch, cached = self.epoch, self.epoch_order
        if cached[0] != epoch:
            # Drawn once an epoch: every step asks, and there may be many photos.
            # Threads may draw it twice; they draw the same.
            order = self.rng(FOR_ORDER, epoch=epoch).permutation(len(self.photos))
            self.epoch_order = cached = (epoch, order)
        return cached[1]

    @functools.cached_property
    def fixed_order(self):
        """The order of validation: couples are worth finding only once."""
        return validation_order(self.photos.labels, self.rng(FOR_ORDER))

    def indices(self, step):
        """int array: which photos the batch of `step` holds."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        start = step * self.batch_size
        stop = None if step == len(self) - 1 else start + self.batch_size
        return self.order()[start:stop]

    def pairs(self, step):
        """Who meets whom, without reading a photo.

        Returns:
            `(indices, partner, labels)`: int arrays, shape `(batch,)`, and a
            dict of int32 arrays `ctg_out_1` (class of the first image),
            `ctg_out_2` (of the second) and `bin_out` (`same`, 0 or 1).
        """
        indices = self.indices(step)
        first = self.photos.labels[indices]
        swap = validation_partners if self.validation else swap_partners
        rng = self.rng(FOR_PARTNERS, step)
        members = groups(len(first), self.num_groups)
        partner = np.concatenate([swap(first[own], rng) + own.start for own in members])
        second = first[partner]
        same = (first == second).astype(np.int32)
        return indices, partner, {"ctg_out_1": first, "ctg_out_2": second, "bin_out": same}

    def mirrored(self, step):
        """bool array, shape `(batch,)`: which images of a step are mirrored."""
        count = len(self.indices(step))
        if self.augment != "mirror":
            return np.zeros(count, bool)
        return self.rng(FOR_AUGMENTATION, step).random(count) < 0.5

    def __getitem__(self, step):
        """One batch.

        Returns:
            `(inputs, labels)`: `inputs` a dict of `img_1`, uint8 array of shape
            `(batch, image_size, image_size, 3)`, and `partner`, int32 array of
            shape `(batch,)`; the second images are `img_1[partner]`. `labels`
            as in `pairs`.
        """
        _, partner, labels = self.pairs(step)
        return {"img_1": self.images(step, range(len(partner))), "partner": partner}, labels

    def images(self, step, rows):
        """Reads some images of a batch, augmented as the batch has them.

        Args:
            step: int.
            rows: sequence of int, positions in the batch.

        Returns:
            uint8 array, shape `(len(rows), image_size, image_size, 3)`.
        """
        indices, mirrored = self.indices(step), self.mirrored(step)
        seeds = self.rng(FOR_AUGMENTATION, step).integers(2**32, size=len(indices))
        images = []
        for row in rows:
            image = self.photos.open(indices[row], self.image_size)
            if self.augmenter:
                image = augment(image, seeds[row], self.augmenter)
            if mirrored[row]:
                image = ImageOps.mirror(image)
            images.append(np.asarray(image))
        return np.stack(images)


def draw_pairs(batch, typeids, columns=4):
    """Draws the pairs of a batch, first image left, second right.

    Returns:
        `PIL.Image.Image`: green frames around pairs of one class, red around
        pairs of two, the typeids below.
    """
    inputs, labels = batch
    images = inputs["img_1"]
    side, gap, text = images.shape[1], 8, 22
    font = ImageFont.load_default(size=14)
    rows = math.ceil(len(images) / columns)
    cell = (2 * side + 3 * gap, side + 2 * gap + text)
    sheet = Image.new("RGB", (columns * cell[0], rows * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for position, partner in enumerate(inputs["partner"]):
        left, top = position % columns * cell[0], position // columns * cell[1]
        same = labels["bin_out"][position]
        colour = (40, 140, 60) if same else (200, 60, 50)
        box = (left + 2, top + 2, left + cell[0] - 3, top + cell[1] - 3)
        draw.rectangle(box, outline=colour, width=3)
        sheet.paste(Image.fromarray(images[position]), (left + gap, top + gap))
        sheet.paste(Image.fromarray(images[partner]), (left + side + 2 * gap, top + gap))
        first, second = (typeids[labels[head][position]] for head in ("ctg_out_1", "ctg_out_2"))
        words = f"{first} | {second}: {'same' if same else 'different'}"
        draw.text((left + gap, top + side + gap + 2), words, fill=colour, font=font)
    return sheet


def parse_args():
    parser = Parser(description="Draw one batch of pairs with their labels.")
    parser.add_argument("--data", default="data/train", help="class folders (default: %(default)s)")
    parser.add_argument("--out", default="pairs.png", help="picture (default: %(default)s)")
    parser.add_argument(
        "--image-size", type=positive_int, default=160, help="pixels (default: 160)"
    )
    parser.add_argument("--batch-size", type=positive_int, default=32, help="pairs (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--no-augment", action="store_true", help="photos as they are")
    args = parser.parse_args()
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: 0 or more is needed")
    out = pathlib.Path(args.out)
    if out.suffix.lower() not in (".png", ".jpg") or not out.parent.is_dir():
        parser.error(f"--out {out}: a .png or .jpg in a folder that is there is needed")
    return args


def main():
    args = parse_args()
    photos = find_class_photos(args.data)
    batches = PairBatches(
        photos, args.image_size, args.batch_size, args.seed, None if args.no_augment else "affine"
    )
    batch = batches[0]
    with replacing(args.out) as temporary:
        draw_pairs(batch, photos.typeids).save(temporary)
    same = int(batch[1]["bin_out"].sum())
    print(f"{args.out}: {len(batch[1]['bin_out'])} pairs, {same} of them of one class")


if __name__ == "__main__":
    run(main)
