"""The 2017 training ported plainly: what ours is measured against.

Two inputs, two passes through the trunk, the stock ImageDataGenerator, one
photo read for every image. Nothing here is used outside of `benchmarks/`.
"""

import math

import keras
import numpy as np
from keras._tf_keras.keras.preprocessing.image import ImageDataGenerator

APPLICATIONS = {
    "xception": (keras.applications.Xception, 105),
    "inceptionv3": (keras.applications.InceptionV3, 249),
}


def build(trunk_name, image_size, num_classes, weights=None):
    """The two-input model of the seed; returns `(model, trunk)`."""
    build_trunk, _ = APPLICATIONS[trunk_name]
    shape = (image_size, image_size, 3)
    trunk = build_trunk(weights=weights, include_top=False, pooling="avg", input_shape=shape)
    img_1, img_2 = keras.Input(shape, name="img_1"), keras.Input(shape, name="img_2")
    feature_1, feature_2 = trunk(img_1, training=False), trunk(img_2, training=False)

    def classify(feature, name):
        dense = keras.layers.Dense(num_classes, activation="softmax", name=name)
        return dense(keras.layers.Dropout(0.5)(feature))

    square = keras.layers.Lambda(lambda pair: (pair[0] - pair[1]) ** 2, name="square")
    same = keras.layers.Dense(2, activation="softmax", name="bin_out")
    outputs = {
        "ctg_out_1": classify(feature_1, "ctg_out_1"),
        "ctg_out_2": classify(feature_2, "ctg_out_2"),
        "bin_out": same(square([feature_1, feature_2])),
    }
    return keras.Model({"img_1": img_1, "img_2": img_2}, outputs), trunk


def compile_stage(model, trunk, trunk_name, stage):
    """Freezes and compiles for stage 1, 2 or 3."""
    _, unfreeze_from = APPLICATIONS[trunk_name]
    for index, layer in enumerate(trunk.layers):
        is_convolution = "conv" in type(layer).__name__.lower()
        layer.trainable = stage > 1 and index >= unfreeze_from and is_convolution
    optimizer = (
        keras.optimizers.Adam(1e-3) if stage == 1 else keras.optimizers.SGD(1e-4, momentum=0.9)
    )
    heads = ("ctg_out_1", "ctg_out_2", "bin_out")
    model.compile(
        optimizer=optimizer,
        loss={head: "categorical_crossentropy" for head in heads},
        loss_weights={"ctg_out_1": 1.0, "ctg_out_2": 1.0, "bin_out": 0.5},
        metrics={head: ["accuracy"] for head in heads},
        jit_compile=keras.backend.backend() == "jax",
    )


def flow(folder, image_size, batch_size, augment):
    """The stock generator over class folders, scaled to [-1, 1]."""
    settings = {}
    if augment:
        settings = {
            "rotation_range": 45,
            "shear_range": math.degrees(0.2),
            "zoom_range": 0.2,
            "horizontal_flip": True,
        }
    generator = ImageDataGenerator(rescale=1 / 127.5, **settings)
    return generator.flow_from_directory(
        folder,
        target_size=(image_size, image_size),
        batch_size=batch_size,
        interpolation="bilinear",
        seed=0,
    )


def pairs(batches):
    """Endless pairs from a stock iterator: same-class samples swapped."""
    while True:
        images, labels = next(batches)
        images = images - 1
        classes = labels.argmax(axis=1)
        second = np.arange(len(classes))
        waiting = {}
        for position, label in enumerate(classes):
            if label in waiting:
                other = waiting.pop(label)
                second[position], second[other] = other, position
            else:
                waiting[label] = position
        alone = list(waiting.values())
        second[alone] = np.roll(alone, 1)
        same = keras.utils.to_categorical(classes == classes[second], 2)
        yield (
            {"img_1": images, "img_2": images[second]},
            {"ctg_out_1": labels, "ctg_out_2": labels[second], "bin_out": same},
        )
