"""Teaches an Xception what an InceptionV3 sees: for where no ImageNet Xception is to be had.

A random Xception trunk learns to give the pooled features of the InceptionV3
trunk (both have 2048, standardised) and the labels, on augmented photos. It is
a trunk that has seen these photos only: better than random, no match for
ImageNet. Give it training photos only, or the test photos are no test any more.

Meant for an accelerator (KERAS_BACKEND=jax works); on a CPU it takes days.

Run it:  python benchmarks/distill.py --data data/train --teacher FILE --out FILE.weights.h5
         python train.py --pretrained FILE.weights.h5
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np

from atomic_file import replacing, write_text
from command_line import Parser, add_workers_flag, positive_int, run
from photo import find_class_photos, read_ahead, read_photo

# Photos that the mean and spread of the teacher's features are taken from.
NUM_MEASURED = 512
# Cross-entropy of the labels beside the mean square of the feature's difference.
LABEL_WEIGHT = 0.1
WEIGHT_DECAY = 1e-4


def measure_features(teacher, photos, image_size, batch_size, workers):
    """Mean and standard deviation of the teacher's features: two float32 arrays, `(2048,)`."""
    import model as network

    count = min(NUM_MEASURED, len(photos))
    chosen = np.random.default_rng(0).permutation(len(photos))[:count]
    images = read_ahead(
        lambda path: read_photo(path, image_size), [photos.paths[i] for i in chosen], workers
    )
    scale, offset = map(np.float32, network.INPUT_SCALE)
    images = np.stack(list(images)) * scale + offset
    features = teacher.predict(images, batch_size=batch_size, verbose=0)
    return features.mean(axis=0), features.std(axis=0) + 1e-6


def build_pupil(student, teacher, mean, deviation, num_classes):
    """The model that is trained: images to what the student still lacks.

    Args:
        student, teacher: trunks of `trunk.build_trunk`; the teacher stays as it is.
        mean, deviation: `measure_features(teacher, ...)`.
        num_classes: int.

    Returns:
        `keras.Model`: uint8 images to a dict of `difference`, shape
        `(batch, 2048)`, of the student's feature from the teacher's
        standardised one, and `label`, shape `(batch, num_classes)`, a softmax.
    """
    import keras

    import model as network

    teacher = keras.Model(teacher.input, teacher.output, name="teacher")  # both are "trunk"
    teacher.trainable = False
    image = keras.Input(student.input_shape[1:], dtype="uint8", name="img_1")
    scaled = keras.layers.Rescaling(*network.INPUT_SCALE)(image)
    # The student's feature is an average of rectified numbers and cannot be
    # negative; a linear layer of its own reaches the standardised one.
    feature = student(scaled)
    reached = keras.layers.Dense(teacher.output_shape[-1])(feature)
    wanted = keras.layers.Normalization(mean=mean, variance=deviation**2)(
        teacher(scaled, training=False)
    )
    outputs = {
        "difference": keras.layers.Subtract(name="difference")([reached, wanted]),
        "label": keras.layers.Dense(num_classes, activation="softmax", name="label")(feature),
    }
    return keras.Model({"img_1": image}, outputs)


def make_batches(pairs, workers):
    """`PairBatches` without its pairs, as Keras wants them."""
    import keras

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return len(pairs)

        def __getitem__(self, step):
            inputs, labels = pairs[step]
            labels = labels["ctg_out_1"]
            return {"img_1": inputs["img_1"]}, {"difference": labels, "label": labels}

    return Batches(workers=workers, max_queue_size=workers + 2)


def distill(args):
    """Trains the student and saves its weights after every epoch."""
    import keras

    import model as network
    from callbacks import SetEpoch, StopOnNonFiniteLoss
    from pair_generator import PairBatches
    from record import csv_text
    from stage import cosine
    from trunk import build_trunk

    keras.utils.set_random_seed(args.seed)
    photos = find_class_photos(args.data)
    teacher = build_trunk("inceptionv3", args.image_size, args.teacher, ".")
    measured = measure_features(teacher, photos, args.image_size, args.batch_size, args.workers)
    student = build_trunk("xception", args.image_size, "none", ".")
    model = build_pupil(student, teacher, *measured, len(photos.typeids))
    pairs = PairBatches(photos, args.image_size, args.batch_size, args.seed, "affine")
    rate = cosine(args.learning_rate, args.epochs * len(pairs))
    model.compile(
        optimizer=keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY),
        loss={
            "difference": lambda _, difference: keras.ops.mean(difference**2, axis=-1),
            "label": "sparse_categorical_crossentropy",
        },
        loss_weights={"difference": 1.0, "label": LABEL_WEIGHT},
        metrics={"label": ["accuracy"]},
        jit_compile=network.uses_xla(),
    )
    rows = []

    def keep(epoch, logs):
        with replacing(args.out) as temporary:
            # Keras goes by the ending of the name.
            named = temporary.with_suffix(".weights.h5")
            student.save_weights(named)
            named.replace(temporary)
        rows.append({"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}})
        write_text(args.out.with_suffix(".csv"), csv_text(rows))

    callbacks = [
        SetEpoch(pairs),
        StopOnNonFiniteLoss("distill"),
        keras.callbacks.LambdaCallback(on_epoch_end=keep),
    ]
    batches = make_batches(pairs, args.workers)
    model.fit(batches, epochs=args.epochs, callbacks=callbacks, shuffle=False, verbose=2)


def parse_args():
    parser = Parser(description="Teach an Xception trunk the features of an InceptionV3 trunk.")
    add = parser.add_argument
    add("--data", default="data/train", help="class folders (default: %(default)s)")
    add("--teacher", required=True, metavar="FILE", help="ImageNet weights of InceptionV3")
    add("--out", type=pathlib.Path, required=True, metavar="FILE.weights.h5")
    add("--image-size", type=positive_int, default=299, help="pixels (default: %(default)s)")
    add("--batch-size", type=positive_int, default=64, help="default: %(default)s")
    add("--epochs", type=positive_int, default=60, help="default: %(default)s")
    add("--learning-rate", type=float, default=1e-3, help="default: %(default)s")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add_workers_flag(parser)
    args = parser.parse_args()
    if not args.out.name.endswith(".weights.h5"):
        parser.error(f"--out {args.out}: a name that ends in .weights.h5 is needed")
    if not pathlib.Path(args.teacher).is_file():
        parser.error(f"--teacher {args.teacher}: no such file")
    return args


if __name__ == "__main__":
    run(lambda: distill(parse_args()))
