"""How much faster is what does not train where OpenVINO computes it?

The stages and the prediction of `train_speed.py`, with and without `--openvino`, and the heads
stage of the plain port, interleaved.

Run it:  python -m benchmarks.openvino_speed --data data/train --pretrained FILE
"""

import argparse
import functools
import pathlib
import tempfile

import numpy as np

from benchmarks import reference
from benchmarks.train_speed import Ours, link_photos, measure, take_photos
from pairs.command_line import run
from pairs.devices.inventory import multiplies_bfloat16
from pairs.network.trunks import TRUNKS, build_trunk


def prepare(args, photos, openvino, scratch):
    """What is timed, by name, and the features of the photos."""
    from model import build_model
    from pairs.evaluation.predictor import Predictor

    scratch.mkdir()
    trunk = build_trunk(args.trunk, args.image_size, args.pretrained, scratch)
    model = build_model(trunk, photos.typeids)
    model.save(scratch / "model.keras")
    stages = {
        name: Ours(model, args, photos, number, scratch, openvino)
        for number, name in ((1, "heads"), (2, "blocks"))
    }
    predictor = Predictor(scratch, args.batch_size, args.workers, openvino=openvino)
    timed = {f"stage {name}, a pair": stage.train for name, stage in stages.items()}
    timed["building a store, a photo"] = stages["blocks"].build
    timed["prediction, a photo"] = functools.partial(predictor.predict, photos.paths)
    return timed, predictor.predict(photos.paths).features


def plain_port(args, photos, folder):
    """The heads stage of the plain port."""
    model, trunk = reference.build(args.trunk, args.image_size, len(photos.typeids))
    reference.compile_stage(model, trunk, args.trunk, 1)
    flow = reference.flow(link_photos(photos, folder), args.image_size, args.batch_size, True)
    pairs = reference.pairs(flow)
    return functools.partial(model.fit, pairs, steps_per_epoch=len(flow), verbose=0)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Time ours with and without OpenVINO.")
    add = parser.add_argument
    add("--data", required=True, help="class folders")
    add("--pretrained", default="none", help="as train.py (default: none)")
    add("--image-size", type=int, default=299, help="pixels (default: 299)")
    add("--batch-size", type=int, default=16, help="pairs a step (default: 16)")
    add("--steps", type=int, default=1, help="steps a round (default: 1)")
    add("--rounds", type=int, default=7, help="of each, in turn (default: 7)")
    add("--trunk", choices=TRUNKS, default="xception")
    add("--workers", type=int, default=2, help="threads (default: 2)")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    photos = take_photos(args.data, args.steps * args.batch_size)
    kinds = [None, "float32", *(["bfloat16"] if multiplies_bfloat16() else [])]
    contenders, features = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        port = plain_port(args, photos, pathlib.Path(folder, "links"))
        contenders["stage heads, a pair", "plain port"] = port
        for kind in kinds:
            timed, features[kind] = prepare(args, photos, kind, pathlib.Path(folder, str(kind)))
            contenders |= {(name, kind): call for name, call in timed.items()}
        found = measure(contenders, args.rounds)
    print("ms on the clock and of the processor, and how many times as fast, by either")
    for (name, kind), seconds in found.items():
        clock, processor = 1000 * seconds / len(photos)
        times, by_processor = found[name, None] / seconds
        who = {None: "TensorFlow", "plain port": kind}.get(kind, f"OpenVINO {kind}")
        print(
            f"{name:<26} {who:<18} {clock:8.1f} {processor:8.1f} {times:6.2f} {by_processor:6.2f}"
        )
    for kind in kinds[1:]:
        apart = np.abs(features[kind] - features[None]).max() / np.abs(features[None]).max()
        print(f"features of OpenVINO {kind} differ by {apart:.1e} of the largest")


if __name__ == "__main__":
    run(main)
