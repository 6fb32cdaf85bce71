"""Fine-tuning with timm, for `time_to_accuracy.py`: Keras' Xception weights, timm's training.

`legacy_xception`, everything trained, BatchNormalization too; timm's own transforms
(random resized crops, flips, colour), SGD with momentum, a warm-up of one epoch and a
cosine, label smoothing: parts of timm, as its train.py joins them.
"""

import numpy as np
import timm
import timm.data
import timm.loss
import timm.optim
import timm.scheduler
import torch
from PIL import Image

from benchmarks.time_to_accuracy import BATCH_SIZE, processor_seconds
from pairs.errors import UserError
from pairs.photos.find import find_class_photos

LEARNING_RATE = 0.01
WEIGHT_DECAY = 2e-5  # train.py's default
SMOOTHING = 0.1
JUDGED_EVERY = 4  # epochs
WARM_UP = 1  # epoch
# Of two features, in units of the largest one: what is above is not the same network.
LARGEST_DIFFERENCE = 1e-3


class Photos(torch.utils.data.Dataset):
    """Photos of class folders, transformed."""

    def __init__(self, folder, typeids, transform):
        self.photos = find_class_photos(folder, typeids)
        self.transform = transform

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, index):
        with Image.open(self.photos.paths[index]) as image:
            return self.transform(image.convert("RGB")), int(self.photos.labels[index])


def carry_weights(trunk, model):
    """Gives timm's `legacy_xception` the weights of Keras' Xception, in place."""
    layers = {layer.name: layer for layer in trunk.layers}

    def put(parameter, array):
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))

    def convolution(module, name):
        kernels = layers[name].get_weights()
        if hasattr(module, "pointwise"):
            put(module.conv1.weight, kernels[0].transpose(2, 3, 0, 1))
            put(module.pointwise.weight, kernels[1].transpose(3, 2, 0, 1))
        else:
            put(module.weight, kernels[0].transpose(3, 2, 0, 1))

    def normalization(module, name):
        module.eps = layers[name].epsilon
        weights = layers[name].get_weights()
        places = (module.weight, module.bias, module.running_mean, module.running_var)
        for parameter, array in zip(places, weights, strict=True):
            put(parameter, array)

    for number, name in enumerate(("block1_conv1", "block1_conv2"), start=1):
        convolution(getattr(model, f"conv{number}"), name)
        normalization(getattr(model, f"bn{number}"), f"{name}_bn")
    shortcuts = [name for name in layers if name.startswith("conv2d")]
    normalizations = [name for name in layers if name.startswith("batch_normalization")]
    for number in range(1, 13):  # timm's block 1 is Keras' block 2
        block = getattr(model, f"block{number}")
        separable = [module for module in block.rep if hasattr(module, "pointwise")]
        normal = [module for module in block.rep if isinstance(module, torch.nn.BatchNorm2d)]
        for place, (module, norm) in enumerate(zip(separable, normal, strict=True), start=1):
            name = f"block{number + 1}_sepconv{place}"
            convolution(module, name)
            normalization(norm, f"{name}_bn")
        if block.skip is not None:
            convolution(block.skip, shortcuts.pop(0))
            normalization(block.skipbn, normalizations.pop(0))
    for number in (3, 4):
        name = f"block14_sepconv{number - 2}"
        convolution(getattr(model, f"conv{number}"), name)
        normalization(getattr(model, f"bn{number}"), f"{name}_bn")


def train(args):
    """Fine-tunes and judges every few epochs.

    Args:
        args: of `time_to_accuracy.py`.

    Returns:
        list of `(name, seconds, error)`.
    """
    from pairs.network.trunks import build_trunk

    torch.manual_seed(args.seed)
    typeids = find_class_photos(f"{args.data}/train").typeids
    model = timm.create_model("legacy_xception", pretrained=False, num_classes=len(typeids))
    trunk = build_trunk("xception", args.image_size, args.pretrained)
    carry_weights(trunk, model)
    apart = difference(trunk, model, args.image_size)
    print(f"timm: features differ from Keras' by {apart:.1e} of the largest", flush=True)
    if apart > LARGEST_DIFFERENCE:
        raise UserError(f"--image-size {args.image_size}: timm pads it otherwise; take 135")
    model = model.to(memory_format=torch.channels_last)
    config = timm.data.resolve_data_config({}, model=model)
    shown = {"input_size": args.image_size, "mean": config["mean"], "std": config["std"]}
    shown["interpolation"] = config["interpolation"]
    training = timm.data.create_transform(**shown, is_training=True)
    judging = timm.data.create_transform(**shown, crop_pct=config["crop_pct"])
    loader = torch.utils.data.DataLoader(
        Photos(f"{args.data}/train", typeids, training),
        batch_size=BATCH_SIZE,
        shuffle=True,
        drop_last=True,
    )  # in this process: forking it would copy TensorFlow's threads, and time is counted anyway
    test = torch.utils.data.DataLoader(Photos(args.test, typeids, judging), BATCH_SIZE)
    rates = {"lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "momentum": 0.9}
    optimizer = timm.optim.create_optimizer_v2(model, "sgd", **rates)
    scheduler, _ = timm.scheduler.create_scheduler_v2(
        optimizer, "cosine", num_epochs=args.timm_epochs, min_lr=1e-6, warmup_epochs=WARM_UP
    )
    criterion = timm.loss.LabelSmoothingCrossEntropy(SMOOTHING)
    spent, points, start = 0.0, [], processor_seconds()
    for epoch in range(args.timm_epochs):
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            criterion(model(images.to(memory_format=torch.channels_last)), labels).backward()
            optimizer.step()
        scheduler.step(epoch + 1)
        if (epoch + 1) % JUDGED_EVERY == 0 or epoch + 1 == args.timm_epochs:
            spent += processor_seconds() - start
            points.append((f"epoch {epoch + 1}", spent, error(model, test)))
            start = processor_seconds()
    return points


def error(model, test):
    """Share of test photos that the model gets wrong."""
    model.eval()
    with torch.inference_mode():
        wrong = [(model(images).argmax(dim=1) != labels) for images, labels in test]
    return float(torch.cat(wrong).float().mean())


def difference(trunk, model, image_size):
    """The largest difference of two features, in units of the largest one."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (4, image_size, image_size, 3)).astype(np.float32)
    ours = np.asarray(trunk.predict_on_batch(images))
    model.eval()
    with torch.inference_mode():
        tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        theirs = model.forward_head(model.forward_features(tensor), pre_logits=True).numpy()
    return np.abs(ours - theirs).max() / np.abs(ours).max()
