import json
import math

import keras
import numpy as np
import pytest
from conftest import ROOT, SIZE, SMALL_TRUNK, assert_one_line_error, run_here, run_script

KEYS = (
    "stage1_ratio stage2_ratio stage3_ratio stage3_with_build_ratio validation_ratio "
    "pipeline_ratio pipeline_scaling stage1_over_forward predict_over_forward"
)


@pytest.mark.slow
def test_the_speed_benchmark_runs_and_writes_its_keys(data, tmp_path, small_trunk, monkeypatch):
    """What the numbers are is not judged here: a test machine is noisy, the trunk small."""
    from benchmarks import reference

    monkeypatch.setitem(reference.APPLICATIONS, "xception", (keras.applications.Small, 10))
    out = tmp_path / "speed.json"
    flags = f"--data {data / 'train'} --image-size {SIZE} --batch-size 6 --steps 1 --json {out}"
    done = run_here("benchmarks.train_speed", [*flags.split(), "--rounds", "1"], ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert list(found) == KEYS.split()
    assert all(value > 0 for value in found.values())


def test_the_memory_estimate_counts_what_the_backward_pass_keeps(trunk, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import memory

    def an_image(cut, stored=False):
        sizes = [memory.estimate(trunk, cut, batch, stored=stored) for batch in (8, 16, 24)]
        assert sizes[1] - sizes[0] == pytest.approx(sizes[2] - sizes[1])  # linear in the batch
        return (sizes[1] - sizes[0]) / 8

    # By hand, the last two separable convolutions at 71 pixels (3 x 3 x 1536 and
    # x 2048): input, output, BatchNormalization and activation of each.
    last = 4 * 9 * (1024 + 3 * 1536 + 1536 + 3 * 2048)
    assert an_image(105, stored=True) > last
    assert an_image(105) > an_image(105, stored=True)
    assert an_image(None) < an_image(105)
    assert np.isfinite(an_image(None))


def test_the_memory_estimate_counts_sums_that_are_no_layers_and_a_feature_of_768(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import memory
    from pairs.network.trunks import build_trunk

    trunk = build_trunk("convnexttiny", 32, "none")
    cut = trunk.operations.index(trunk.get_layer("convnext_tiny_stage_3_block_2_depthwise_conv"))
    one, two = (memory.estimate(trunk, cut - 1, batch, stored=True) for batch in (1, 2))
    # The last block at one place, by hand: five layers and a sum of 768 numbers, two layers
    # of 3072; then the pool and the normalisation behind it.
    assert two - one == 4 * (6 * 768 + 2 * 3072 + 2 * 768)
    # Weights once; of that block, and of the heads, their gradients and momenta.
    block = 49 * 768 + 768 + 2 * 768 + 2 * 768 * 3072 + 3072 + 768 + 768 + 2 * 768
    heads = 2 * 768 * 100
    fixed = memory.OVERHEAD + 4 * (trunk.count_params() + 2 * block + 2 * heads)
    assert one - (two - one) == pytest.approx(fixed)


def test_operations_are_those_that_are_published(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import timm_speed
    from pairs.network.trunks import build_trunk

    large = build_trunk("xception", 299, "none")
    of_stage = timm_speed.operations_of_a_pair(large, 105)
    # timm's table of models: legacy_xception, 8.40 billion multiply-adds at 299 pixels.
    assert of_stage["heads"] / 2 == pytest.approx(8.40e9, rel=0.01)
    # What is frozen counts once, what is trained three times.
    trained = of_stage["plain"] / 3
    assert of_stage["blocks"] == pytest.approx(of_stage["heads"] + 2 * trained)
    assert 0.1 < trained / of_stage["heads"] < 0.3
    card = "jax 0.10.2 on 1 GPU: NVIDIA H200, 140.4 GiB, compute capability 9.0, cuDNN 9.10"
    assert timm_speed.share_of_peak(card, "mixed_bfloat16", 494.5e12) == pytest.approx(0.5)
    assert timm_speed.share_of_peak("jax 0.10.2 on the CPU: 2 cores", "float32", 1e12) is None


@pytest.mark.slow
def test_contenders_take_turns_and_one_that_ends_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "small_trunk"))
    for name, value in SMALL_TRUNK.items():
        monkeypatch.setenv(name, value)
    import small

    from benchmarks import timm_speed
    from pairs.training.recipe import STAGES_2017

    monkeypatch.setattr(timm_speed, "work", small.work)
    contenders = ["nobody", "two-pass", "ours"]
    found = timm_speed.race(contenders, 1, STAGES_2017[2], 2, SIZE, 1, "float32")
    assert found["nobody"] is None
    assert found["ours"]["pairs a second"] > 0
    assert found["two-pass"]["pairs a second"] > 0
    assert 1e8 < found["two-pass"]["memory"] < 1e11
    assert timm_speed.shown({**found["two-pass"], "share of peak": None}).endswith("GB)")


def test_mutated_photos_are_read_or_refused():
    done = run_script("benchmarks.fuzz_images", "--files", 60)
    assert done.returncode == 0, done.stderr
    assert " 0 crashes, hangs or other errors" in done.stdout


def test_sorting_many_files_is_measured():
    done = run_script("benchmarks.many_files", "--files", 300, "--classes", 20)
    assert done.returncode == 0, done.stderr
    first, again, checked, checked_again, resident = done.stdout.splitlines()
    assert "20 classes, 300 photos: 300 written" in first
    assert "0 written, 300 there already" in again
    assert "300 photos" in checked
    assert "300 photos" in checked_again
    assert resident.count(",") == 5


@pytest.mark.slow
def test_memory_is_measured_of_steps_and_what_finds_no_room_is_no_end(small_trunk, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import keras_steps, memory

    monkeypatch.setattr(keras_steps, "peak_memory", lambda: 5e9)  # as on a GPU
    for stage in memory.STAGES:
        assert memory.measure("xception", stage, 4, SIZE) == 5e9

    def too_large(*args):
        raise MemoryError

    monkeypatch.setattr(keras_steps, "prepare_ours", too_large)
    assert memory.measure("xception", "heads", 4, SIZE) == math.inf


def test_kernels_are_added_up_by_what_they_compute(monkeypatch, capsys, tmp_path):
    pytest.importorskip("jax")
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import profile_steps
    from pairs.errors import UserError

    found = {  # as they were named on an H200
        "conv2d_c1_k1_nhwc_specialized": [0.03, 400],
        "sm90_xmma_fprop_implicit_gemm_bf16bf16": [0.02, 270],
        "loop_maximum_fusion_18": [0.04, 10],
        "MemcpyH2D": [0.005, 90],
        "input_convert_fusion": [0.005, 90],
    }
    profile_steps.print_kernels(found, 2)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "2.00 ms of kernels a step"
    assert [line.split()[0] for line in printed[1:4]] == ["50.0%", "45.0%", "5.0%"]
    assert [line.split()[-1] for line in printed[4:]] == [
        "loop_maximum_fusion_18",
        "conv2d_c1_k1_nhwc_specialized",
    ]
    with pytest.raises(UserError, match="no kernel of a GPU"):
        profile_steps.kernels(tmp_path)


@pytest.mark.slow
def test_time_to_accuracy_judges_every_contender_and_keeps_what_was_timed(data, tmp_path):
    out = tmp_path / "times"
    flags = ["--data", data, "--test", data / "valid", "--pretrained", "none", "--out", out]
    flags += ["--image-size", SIZE, "--epochs-2017", 1, 0, 0, "--keras-epochs", 1, 1]
    for contender in ("seed", "keras"):
        words = [*map(str, flags), "--contenders", contender]
        done = run_here("benchmarks.time_to_accuracy", words, ROOT)
        assert done.returncode == 0, done.stderr
    found = json.loads((out / "times.json").read_text())["points"]
    assert {name: [point[0] for point in points] for name, points in found.items()} == {
        "seed": ["heads"],
        "keras": ["frozen 1", "all 1"],
    }
    for points in found.values():
        seconds = [point[1] for point in points]
        assert seconds == sorted(seconds)
        assert seconds[0] > 0
        assert {round(6 * point[2], 6) % 1 for point in points} == {0}  # of six photos
    assert (out / "times.png").read_bytes().startswith(b"\x89PNG")
    done = run_here("benchmarks.time_to_accuracy", [*map(str, flags), "--seed", "1"], ROOT)
    assert_one_line_error(done, "timed with", "choose another --out")
