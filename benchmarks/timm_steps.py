"""The same training steps in PyTorch, as a user of timm would write them for speed."""

import itertools

import numpy as np
import timm
import torch
from torch.nn.functional import cross_entropy

from benchmarks.timm_speed import NUM_CLASSES, make_batches

# timm counts blocks without the first two convolutions: its 11 is Keras' 12,
# its conv3 and conv4 are Keras' block 14.
TRAINED = ("block11", "block12", "conv3", "conv4")


class Pairs(torch.nn.Module):
    """The network of `model.py`: all first images of a batch, then all second ones, as bytes."""

    def __init__(self, unfreeze):
        super().__init__()
        self.trunk = timm.create_model("legacy_xception", pretrained=False, num_classes=0)
        for name, module in self.trunk.named_modules():
            trains = unfreeze is not None and name.split(".")[0] in TRAINED
            for weight in module.parameters(recurse=False):
                weight.requires_grad = trains and isinstance(module, torch.nn.Conv2d)
        self.ctg_out_1 = torch.nn.Linear(self.trunk.num_features, NUM_CLASSES)
        self.ctg_out_2 = torch.nn.Linear(self.trunk.num_features, NUM_CLASSES)
        self.bin_out = torch.nn.Linear(self.trunk.num_features, 2)
        self.dropout = torch.nn.Dropout(0.5)
        self.trunk.eval()  # BatchNormalization in inference mode

    def forward(self, images):
        # Bytes travel; permuted, they lie channels_last.
        scaled = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        first, second = self.trunk(scaled).float().chunk(2)
        return (
            self.ctg_out_1(self.dropout(first)),
            self.ctg_out_2(self.dropout(second)),
            self.bin_out((first - second) ** 2),
        )


def prepare_timm(plan, batch_size, image_size, num_steps, precision):
    """Sets a stage up with torch.compile and channels_last.

    Args and returns: as `keras_steps.prepare_ours`; `mixed_bfloat16` is
    autocast.
    """
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # TF32, as in its convolutions
    torch.backends.cudnn.benchmark = True  # XLA chooses among convolutions, too
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Pairs(plan.unfreeze).to(device, memory_format=torch.channels_last)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if plan.optimizer == "adam":
        optimizer = torch.optim.Adam(weights, plan.learning_rate)
    else:
        optimizer = torch.optim.SGD(weights, plan.learning_rate, momentum=0.9)
    compiled = torch.compile(model)
    batches = [
        [tensor.pin_memory() if device == "cuda" else tensor for tensor in tensors]
        for tensors in pair_tensors(batch_size, image_size)
    ]

    def step(batch):
        images, *labels = batch
        with torch.autocast(device, torch.bfloat16, enabled=precision == "mixed_bfloat16"):
            outputs = compiled(images)
        first, second, same = map(cross_entropy, outputs, labels)
        loss = first + second + 0.5 * same
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    def train():
        for batch in on_device(itertools.islice(itertools.cycle(batches), num_steps), device):
            loss = step(batch)
        loss.item()  # waits for the device

    return train


def on_device(batches, device):
    """Yields batches on the device; on a GPU the next one travels while one is used."""
    if device == "cpu":
        yield from batches
        return
    stream, waiting = torch.cuda.Stream(), None
    for batch in itertools.chain(batches, [None]):
        if waiting is not None:
            torch.cuda.current_stream().wait_stream(stream)
            for tensor in waiting:
                tensor.record_stream(torch.cuda.current_stream())
        ready, waiting = waiting, None
        if batch is not None:
            with torch.cuda.stream(stream):
                waiting = [tensor.to(device, non_blocking=True) for tensor in batch]
        if ready is not None:
            yield ready


def pair_tensors(batch_size, image_size):
    """Yields the tensors of a batch: both images of all pairs, and the labels of the heads."""
    for images, partner, labels in make_batches(batch_size, (image_size, image_size, 3), "uint8"):
        second = labels[partner]
        yield [
            torch.from_numpy(np.concatenate([images, images[partner]])),
            *(
                torch.from_numpy(each.astype(np.int64))
                for each in (labels, second, labels == second)
            ),
        ]


def peak_memory():
    """Most bytes of the device that this process has had; None on a CPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
