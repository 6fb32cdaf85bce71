import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, run_script

from model import build_model
from pairs.devices import cards, inventory
from pairs.devices.cards import Card, Gpu, Inventory
from pairs.errors import UserError
from pairs.network import parts
from pairs.network.parts import unfreeze
from pairs.network.trunks import build_trunk
from pairs.training.optimizer import compile_model

GTX_1060 = Card("NVIDIA GeForce GTX 1060 6GB", 6 << 30, (6, 1), "535.183.01")
H200 = Card("NVIDIA H200", 141 << 30, (9, 0), "570.86.15")
PASCAL, HOPPER = (Gpu(card.name, card.capability) for card in (GTX_1060, H200))
GOOD = Inventory(
    "tensorflow", "2.21.0", (12, 5, 1), (PASCAL,), (GTX_1060,), "9.10.2.21", 8, 8 << 30
)
RTX_5090 = Card("NVIDIA GeForce RTX 5090", 32 << 30, (12, 0), "580.95.05")
GTX_970 = Card("NVIDIA GeForce GTX 970", 4 << 30, (5, 2), "535.183.01")
# What the wheels of TensorFlow 2.21, and of PyTorch 2.14 for CUDA 13, were built for.
IN_WHEELS = {
    "tensorflow": ["sm_60", "sm_70", "sm_80", "sm_89", "compute_90"],
    "torch": ["sm_75", "sm_80", "sm_86", "sm_90a", "sm_100", "sm_120", "compute_120"],
    "jax": [],
}
HARDWARE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "hardware.md"


def with_card(card, backend="tensorflow", **changes):
    """`GOOD` with another card that computes, or lies idle (`gpus=()`)."""
    found = dataclasses.replace(
        GOOD,
        backend=backend,
        cards=(card,),
        gpus=(Gpu(card.name, card.capability),),
        code_for=inventory.parse_code(IN_WHEELS[backend]),
    )
    return dataclasses.replace(found, **changes)


def test_one_line_says_what_a_training_runs_on():
    assert inventory.describe(GOOD) == (
        "tensorflow 2.21.0 on 1 GPU: NVIDIA GeForce GTX 1060 6GB, 6.0 GiB, compute capability 6.1, "
        "cuDNN 9.10.2.21"
    )
    on_cpu = Inventory("jax", "0.7.1", None, (), (), None, 4, 8 << 30)
    assert inventory.describe(on_cpu) == "jax 0.7.1 on the CPU: 4 cores, 8.0 GiB"
    # The driver lists another card first; CUDA takes the fastest.
    two = dataclasses.replace(GOOD, gpus=(HOPPER, PASCAL), cards=(GTX_1060, H200), cudnn=None)
    assert inventory.describe(two) == (
        "tensorflow 2.21.0 on 2 GPUs: NVIDIA H200, 141.0 GiB, compute capability 9.0, "
        "cuDNN of unknown version"
    )
    unknown = dataclasses.replace(GOOD, gpus=(Gpu("GPU", None),))
    assert inventory.describe(unknown).startswith("tensorflow 2.21.0 on 1 GPU: GPU, cuDNN")


def test_openvino_is_taken_where_it_can_be_and_bfloat16_where_the_cpu_multiplies_it():
    can = dataclasses.replace(GOOD, gpus=(), openvino="2026.4.1", cpu_bfloat16=True)
    cannot = dataclasses.replace(can, cpu_bfloat16=False)
    for precision, found in ((None, GOOD), ("float32", cannot), ("bfloat16", can)):
        assert cards.why_no_openvino(precision, found) is None
    said = cards.why_no_openvino("bfloat16", cannot)
    assert "take --openvino float32" in said
    said = cards.why_no_openvino("float32", dataclasses.replace(can, openvino=None))
    assert "pip install -r requirements-cpu.txt" in said
    said = cards.why_no_openvino("float32", dataclasses.replace(can, backend="jax"))
    assert "'jax'" in said


@pytest.mark.parametrize("cudnn", ["9.10.2.21", "9.1.0.70", "8.9.7.29", None])
def test_a_card_that_works_is_left_alone(cudnn):
    found = dataclasses.replace(GOOD, cudnn=cudnn)
    assert cards.why_it_would_crash(found) is None
    assert cards.why_a_card_is_idle(found) is None


@pytest.mark.parametrize("cudnn", ["9.11.0.98", "9.28.0.1", "10.0.1.2"])
def test_a_cudnn_without_code_for_pascal_names_the_package_to_pin(cudnn):
    found = dataclasses.replace(GOOD, cudnn=cudnn)
    words = cards.why_it_would_crash(found)
    assert 'pip install "nvidia-cudnn-cu12<9.11"' in words
    assert cudnn in words
    # A newer card has nothing to fear from it, nor has a training on the CPU,
    # whatever lies idle in the same machine.
    for gpus in ((HOPPER,), (), (HOPPER, PASCAL), (Gpu("GPU", None),)):
        changed = dataclasses.replace(found, gpus=gpus, cards=(GTX_1060, H200))
        assert cards.why_it_would_crash(changed) is None
    both = dataclasses.replace(found, gpus=(HOPPER, PASCAL))
    assert "GTX 1060" in cards.why_it_would_crash(both, distribute=True)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"cuda": None}, ["no GPU code", "pip install -r requirements-gtx1060.txt"]),
        ({"cuda": None, "cards": (H200,)}, ["no GPU code", "tensorflow[and-cuda]"]),
        ({}, ["finds no CUDA libraries", "pip install -r requirements-gtx1060.txt"]),
        (
            {"cards": (dataclasses.replace(GTX_1060, driver="470.256.02"),)},
            ["470.256.02 is too old", "525 to 580, the last for this card"],
        ),
        (
            {"cards": (dataclasses.replace(H200, driver="470.256.02"),)},
            ["too old", "525 or later"],
        ),
        (
            {"cards": (Card("NVIDIA GeForce GTX 1060 6GB", 6 << 30, None, "470.256.02"),)},
            ["470.256.02 is too old", "525 or later (at most 580 for a GTX 10xx or older)"],
        ),
    ],
)
def test_a_card_that_is_not_used_is_named_with_what_to_install(changed, words):
    words_found = cards.why_a_card_is_idle(dataclasses.replace(GOOD, gpus=(), **changed))
    for word in words:
        assert word in words_found


def test_a_backend_without_code_for_the_card_is_refused_before_the_first_step():
    words = cards.why_it_would_crash(with_card(RTX_5090, version="2.21.0"))
    for word in ("2.21.0", "RTX 5090", "12.0", '"jax[cuda12]"', "KERAS_BACKEND=jax before"):
        assert word in words
    assert cards.why_it_would_crash(with_card(RTX_5090, "jax")) is None
    assert cards.why_it_would_crash(with_card(RTX_5090, "torch")) is None
    assert "CUDA 12.6" in cards.why_it_would_crash(with_card(GTX_1060, "torch"))
    assert "KERAS_BACKEND=torch" in cards.why_it_would_crash(with_card(GTX_970))
    for card in (GTX_1060, H200):
        assert cards.why_it_would_crash(with_card(card)) is None
    # Built by oneself, or by NVIDIA: what counts is what it says of itself.
    own = with_card(RTX_5090, code_for=inventory.parse_code(["sm_90", "sm_120"]))
    assert cards.why_it_would_crash(own) is None
    # A second card counts if it computes.
    both = with_card(H200, gpus=(HOPPER, Gpu(RTX_5090.name, (12, 0))))
    assert cards.why_it_would_crash(both) is None
    assert "RTX 5090" in cards.why_it_would_crash(both, distribute=True)


@pytest.mark.parametrize("backend", ["no-such-backend", "numpy"])
def test_a_backend_that_cannot_be_is_one_line(backend, tmp_path):
    for name in ("a.jpg", "model.keras"):
        (tmp_path / name).write_bytes(b"")
    words = ("predict.py", "--weights", tmp_path, tmp_path / "a.jpg")
    done = run_script(*words, KERAS_BACKEND=backend)
    assert_one_line_error(done, backend)


def test_code_is_read_as_the_backends_name_it():
    names = ["sm_60", "sm_86", "sm_90a", "compute_120", "gfx90a", ""]
    assert inventory.parse_code(names) == ((6, 0), (8, 6), (9, 0), (12, 0))


def test_xla_of_a_tensorflow_that_fails_in_convolutions_is_refused():
    old = with_card(H200, cudnn="9.3.0.75")
    assert cards.why_it_would_crash(old) is None
    words = cards.why_it_would_crash(old, jit=True)
    assert "leave --jit out" in words
    assert 'pip install "nvidia-cudnn-cu12>=9.24"' in words
    # The other way is closed to Pascal: newer ones have no code for it.
    words = cards.why_it_would_crash(GOOD, jit=True)
    assert "leave --jit out" in words
    assert "pip install" not in words
    for fine in (
        {"cudnn": "9.24.0.43"},
        {"cudnn": None},
        {"version": "2.20.0"},
        {"gpus": ()},
        {"backend": "jax", "version": "0.11.2", "code_for": ()},
    ):
        assert cards.why_it_would_crash(dataclasses.replace(old, **fine), jit=True) is None


def rows_of_cards():
    """The rows of the table of cards: `(capabilities, backend, commands)`."""
    lines = HARDWARE.read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("| card |"))
    capabilities = ""
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        _, named, backend, install, _ = (cell.strip() for cell in line.strip("|").split("|"))
        capabilities = named or capabilities
        commands = re.findall("`([^`]+)`", install) or [install]
        ends = [cards.version_numbers(end) for end in capabilities.split(" to ")]
        for capability in ends:
            yield capability, {"PyTorch": "torch"}.get(backend, backend.lower()), commands


@pytest.mark.parametrize(("capability", "backend", "commands"), rows_of_cards())
def test_the_table_of_cards_and_the_program_say_the_same(capability, backend, commands):
    card = Card("A card", 8 << 30, capability, "580.95.05")
    idle = with_card(card, backend, gpus=(), cuda=None)
    for words in (
        cards.why_a_card_is_idle(idle),
        cards.why_a_card_is_idle(dataclasses.replace(idle, cuda=(12, 9))),
    ):
        for command in commands:
            assert command in words


def test_an_old_card_with_a_backend_for_cuda_13_is_told_so():
    idle = with_card(GTX_1060, "jax", gpus=(), cuda=(13,))
    words = cards.why_a_card_is_idle(idle)
    assert "CUDA 13" in words
    assert '"jax[cuda12]" "nvidia-cudnn-cu12<9.11"' in words
    old_driver = dataclasses.replace(H200, driver="570.86.15")
    words = cards.why_a_card_is_idle(with_card(old_driver, "jax", gpus=(), cuda=(13,)))
    assert "570.86.15 is too old for CUDA 13; install 580 or later" in words


def test_half_precision_is_remarked_on_where_it_gains_nothing():
    assert cards.remark_precision("float32", GOOD) is None
    assert "compute capability 7.0" in cards.remark_precision("mixed_float16", GOOD)
    with_turing = dataclasses.replace(GOOD, gpus=(Gpu("NVIDIA GeForce RTX 2080", (7, 5)),))
    assert cards.remark_precision("mixed_float16", with_turing) is None
    assert "capability 8.0" in cards.remark_precision("mixed_bfloat16", with_turing)
    with_h200 = dataclasses.replace(GOOD, gpus=(HOPPER,))
    assert cards.remark_precision("mixed_bfloat16", with_h200) is None
    on_cpu = dataclasses.replace(GOOD, gpus=())
    for precision in ("mixed_float16", "mixed_bfloat16"):
        assert "gains nothing on this CPU" in cards.remark_precision(precision, on_cpu)
    with_amx = dataclasses.replace(on_cpu, cpu_bfloat16=True)
    assert cards.remark_precision("mixed_bfloat16", with_amx) is None
    assert "gains nothing on this CPU" in cards.remark_precision("mixed_float16", with_amx)
    assert inventory.describe(with_amx).endswith(", bfloat16 in hardware")
    assert "bfloat16" not in inventory.describe(on_cpu)


def test_what_the_cpu_multiplies_in_hardware_is_read_from_linux(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    for flags, expected in {
        "fpu sse avx512f avx512_vnni amx_tile": False,
        "fpu avx512_bf16": True,
        "fpu amx_bf16 amx_tile": True,
        "Features\t: fp asimd bf16": True,
    }.items():
        cpuinfo.write_text(f"processor\t: 0\nmodel name\t: A CPU\nflags\t\t: {flags}\n")
        assert inventory.multiplies_bfloat16(str(cpuinfo)) is expected
    assert inventory.multiplies_bfloat16(str(tmp_path / "none")) is False


def test_the_drivers_list_is_read_and_what_is_none_skipped():
    text = (
        "NVIDIA GeForce GTX 1060 6GB, 6144, 0, 535.183.01, 6.1\n"
        "NVIDIA H200, 144384, 72192, 570.86.15, 9.0\n"
        "Some Card, [N/A], [N/A], [N/A], 390.1\n"
        "GB10, 122880, [N/A], 580.95.05, 12.1\n"
        "Failed to initialize NVML: Driver/library version mismatch\n\n"
    )
    half_full = dataclasses.replace(H200, used=H200.memory // 2)
    says_not_how_full = Card("GB10", 120 << 30, (12, 1), "580.95.05")
    assert inventory.parse_cards(text) == (GTX_1060, half_full, says_not_how_full)


def test_a_driver_that_knows_no_compute_capability_is_asked_again(tmp_path, monkeypatch):
    """As drivers of the 470 series answer: one unknown word, and nothing is said."""
    command = tmp_path / "nvidia-smi"
    command.write_text(
        "#!/bin/sh\n"
        'case "$1" in *compute_cap*) echo "Field compute_cap is not a valid field"; exit 2;; esac\n'
        'echo "NVIDIA GeForce GTX 1060 6GB, 6144, 410, 470.256.02"\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (card,) = inventory.list_cards()
    assert (card.driver, card.capability, card.memory) == ("470.256.02", None, 6 << 30)
    assert card.used == 410 << 20


@pytest.mark.parametrize("hides", ["", "-1", "NoDevFiles", "none", "-1,0"])
def test_cards_that_are_hidden_on_purpose_are_not_called_idle(hides, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(inventory, "first_list_of_cards", lambda: (H200,))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert inventory.take_inventory().cards == (H200,)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hides)
    assert inventory.take_inventory().cards == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert not inventory.wants_no_gpu("jax")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert inventory.wants_no_gpu("jax")
    assert not inventory.wants_no_gpu("tensorflow")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    assert not inventory.wants_no_gpu("jax")


def test_code_of_one_major_number_runs_on_no_card_of_another():
    code = inventory.parse_code(["sm_90", "sm_100", "sm_120"])
    of = [capability for capability in ((9, 0), (10, 3), (11, 0), (12, 1), (8, 9))]
    found = [cards.lacks_code(with_card(H200, code_for=code), capability) for capability in of]
    assert found == [False, False, True, False, True]


def test_a_capability_that_the_driver_does_not_tell_is_unknown():
    (card,) = inventory.parse_cards("NVIDIA GH200, 97871, 410, 580.65, [N/A]")
    assert card.capability is None


def full(card):
    return dataclasses.replace(card, used=card.memory - 1)


def test_cards_that_other_programs_fill_are_named_before_the_training():
    def remark(*found):
        return cards.remark_full_cards(dataclasses.replace(GOOD, cards=found))

    assert "of the card is in use by other programs" in remark(full(GTX_1060))
    assert "of every card" in remark(full(GTX_1060), full(H200))
    assert remark(full(GTX_1060), H200) is None
    desktop = dataclasses.replace(GTX_1060, used=GTX_1060.memory // 10)
    assert remark(desktop) is None
    assert remark() is None
    on_the_cpu = dataclasses.replace(GOOD, cards=(full(GTX_1060),), gpus=())
    assert cards.remark_full_cards(on_the_cpu) is None


def test_full_cards_are_a_note_unless_processes_of_the_training_may_fill_them(monkeypatch, capsys):
    found = dataclasses.replace(GOOD, cards=(full(GTX_1060),))
    monkeypatch.setattr(inventory, "take_inventory", lambda: found)
    inventory.prepare()
    assert "note: more than half of the memory of the card" in capsys.readouterr().err
    inventory.prepare(distribute=True)
    assert "note" not in capsys.readouterr().err


def test_a_flag_that_jax_would_ignore_is_refused(monkeypatch):
    found = dataclasses.replace(GOOD, backend="jax")
    monkeypatch.setattr(inventory, "take_inventory", lambda: found)
    inventory.prepare()
    with pytest.raises(UserError, match="--jit: JAX compiles with XLA anyway"):
        inventory.prepare(jit=True)


def test_what_this_process_takes_of_a_card_is_not_taken_for_others(monkeypatch):
    inventory.first_list_of_cards.cache_clear()
    answers = iter([(GTX_1060,), (full(GTX_1060),)])
    monkeypatch.setattr(inventory, "list_cards", lambda: next(answers))
    try:
        assert inventory.take_inventory().cards == (GTX_1060,)
        assert inventory.take_inventory().cards == (GTX_1060,)
    finally:
        inventory.first_list_of_cards.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(("platform", "more"), [("gpu", ()), ("cuda", ("--distribute",))])
def test_a_gpu_that_jax_cannot_use_is_a_line_and_no_traceback(platform, more, data, tmp_path):
    """JAX does not go on without; on an H200 that other programs filled it said the same."""
    pytest.importorskip("jax", reason="JAX is not installed")
    words = ("--data", data, "--weights", tmp_path, "--batch-size", "6", *more)
    done = run_script("train.py", *words, KERAS_BACKEND="jax", JAX_PLATFORMS=platform)
    assert_one_line_error(done, "jax cannot use the GPU (", "does nvidia-smi list the card")


def test_this_machine_can_be_looked_at(monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    inventory.prepare()
    assert capsys.readouterr().err.startswith(f"{keras.backend.backend()} ")


@pytest.mark.parametrize(
    ("backend", "ended"), [("tensorflow", "none of them"), ("jax", "imported: jax")]
)
def test_keras_loads_without_what_it_only_finds_and_we_do_not_need(backend, ended, tmp_path):
    """Packages of these names end the process that imports them; on JAX, Keras needs one.

    And the garbage collector looks at all of Keras once.
    """
    names = ["matplotlib", "sklearn", "pandas", "jax"]
    for name in names:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported: ' + __name__)")
    (tmp_path / "keras.json").write_text(json.dumps({"backend": backend}))
    code = (
        "import gc, sys; from pairs.devices import inventory\n"
        "before = gc.get_stats()[2]['collections']; inventory.prepare()\n"
        "assert gc.get_stats()[2]['collections'] - before <= 2 and gc.isenabled()\n"
        "assert gc.get_freeze_count() > 100_000\n"
        f"assert not sys.modules.keys() & {names}; sys.exit('none of them')"
    )
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "KERAS_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == ended


def test_mixed_precision_trains_with_probabilities_and_weights_in_float32(trunk, monkeypatch):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        size = trunk.input_shape[1]
        half = build_trunk("xception", size, "none")
        half.set_weights(trunk.get_weights())
        model = build_model(half, ["a", "b"])
        unfreeze(model, 105)
        below, above = parts.split(model, 105)
        images = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
        activation = below.predict_on_batch(images)
        assert keras.backend.standardize_dtype(activation.dtype) == "bfloat16"
        compile_model(above, keras.optimizers.SGD(1e-4))
        inputs = {"activation": activation.astype("float32"), "partner": np.array([1, 0, 3, 2])}
        labels = {head: np.zeros(4, np.int32) for head in above.output}
        outputs = above.predict_on_batch(inputs)
        heads = {head: model.get_layer(head).get_weights() for head in above.output}
        # After the prediction: a step changes the trunk, too.
        assert np.isfinite(above.train_on_batch(inputs, labels)).all()
        assert {weight.dtype for weight in above.weights} == {"float32"}
    finally:
        keras.config.set_dtype_policy(before)
    assert {str(output.dtype) for output in outputs.values()} == {"float32"}
    exact_model = build_model(trunk, ["a", "b"])
    for head, weights in heads.items():
        exact_model.get_layer(head).set_weights(weights)
    exact_below, exact = parts.split(exact_model, 105)
    inputs["activation"] = exact_below.predict_on_batch(images)
    wanted = exact.predict_on_batch(inputs)["ctg_out_1"]
    np.testing.assert_allclose(outputs["ctg_out_1"], wanted, atol=0.05)
