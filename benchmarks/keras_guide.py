"""Follows keras.io's guide "Transfer learning & fine-tuning", for `time_to_accuracy.py`.

Xception frozen and in inference mode, dropout 0.2, one softmax, Adam; then all of it at
1e-5. Flips and small rotations as in the guide; photos are decoded once and stay in memory.
"""

import keras
import numpy as np

from benchmarks.time_to_accuracy import BATCH_SIZE, processor_seconds
from pairs.network.trunks import build_trunk
from pairs.photos.find import find_class_photos
from pairs.photos.read import read_ahead, read_photo


def read(folder, typeids, side):
    """All photos of class folders: `(images, labels)`, uint8 and int32."""
    photos = find_class_photos(folder, typeids)
    images = read_ahead(lambda path: read_photo(path, side), photos.paths, 2)
    return np.stack(list(images)), photos.labels


def build(trunk, side, num_classes):
    """The guide's model: bytes to probabilities."""
    image = keras.Input((side, side, 3))
    augmented = keras.layers.RandomRotation(0.1)(keras.layers.RandomFlip("horizontal")(image))
    feature = trunk(keras.layers.Rescaling(*trunk.input_scale)(augmented), training=False)
    dropped = keras.layers.Dropout(0.2)(feature)
    return keras.Model(image, keras.layers.Dense(num_classes, activation="softmax")(dropped))


def train(args):
    """Trains as the guide does.

    Args:
        args: of `time_to_accuracy.py`.

    Returns:
        list of `(name, seconds, error)`, a point after each third of the epochs of a part.
    """
    keras.utils.set_random_seed(args.seed)
    typeids = find_class_photos(f"{args.data}/train").typeids
    trunk = build_trunk("xception", args.image_size, args.pretrained)
    model = build(trunk, args.image_size, len(typeids))
    test = read(args.test, typeids, args.image_size)
    spent, points = 0.0, []
    start = processor_seconds()
    images, labels = read(f"{args.data}/train", typeids, args.image_size)
    for part, epochs, rate in zip(("frozen", "all"), args.keras_epochs, (1e-3, 1e-5), strict=True):
        trunk.trainable = part == "all"
        optimizer = keras.optimizers.Adam(rate)
        model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
        for done in range(epochs):
            model.fit(images, labels, batch_size=BATCH_SIZE, verbose=0)
            if (done + 1) % -(-epochs // 3) and done + 1 < epochs:
                continue
            spent += processor_seconds() - start
            wrong = model.predict(test[0], verbose=0).argmax(axis=1) != test[1]
            points.append((f"{part} {done + 1}", spent, float(wrong.mean())))
            start = processor_seconds()
    return points
