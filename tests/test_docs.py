"""Every command that README and docs show is one that its script accepts."""

import importlib.util
import os
import pathlib
import re
import shlex

import pytest
from conftest import ROOT

PAGES = [
    *("README.md", "benchmarks/README.md", "weights/README.md", "data/README.md"),
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")),
]
# A script of ours, or a module of ours, and its flags up to the end of the command.
COMMAND = re.compile(
    r"python3? +(?:([a-z0-9_]+)\.py|-m +((?:benchmarks|experiments)\.[a-z_]+))([^`\n&;|>]*)"
)
OTHERS = re.compile(r"python3? +-m +(venv|pip|pytest)\b")


def commands(page):
    """The commands of a page: `(module, flags)`."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    # Inline code may be wrapped; a code block's lines are commands of their own.
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", lambda code: code[0].replace("\n", " "), text)
    return [
        (match[1] or match[2], match[3].strip().rstrip("\"']")) for match in COMMAND.finditer(text)
    ]


def test_the_pages_show_commands_of_every_script():
    shown = {module for page in PAGES for module, _ in commands(page)}
    assert {"img2keras", "pair_generator", "train", "predict"} <= shown
    assert {"benchmarks.kill_test", "experiments.ablation"} <= shown


def test_no_command_is_overlooked():
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        mentioned = re.findall(r"python3? +(?=-m (?!\w+\.NAME)|\w+\.py)", text)
        others = OTHERS.findall(text)
        assert len(mentioned) == len(commands(page)) + len(others), page


@pytest.mark.parametrize(
    ("page", "module", "flags"),
    [(page, module, flags) for page in PAGES for module, flags in commands(page)],
)
def test_a_command_is_one_that_its_script_accepts(page, module, flags, monkeypatch):
    parse_args = importlib.import_module(module).parse_args
    # The files that a command names are those of a reader.
    monkeypatch.setattr(os.path, "isfile", lambda path: True)
    monkeypatch.setattr(os.path, "isdir", lambda path: not str(path).endswith(".jpg"))
    monkeypatch.setattr(os, "access", lambda *_: True)
    monkeypatch.setattr(pathlib.Path, "is_file", lambda _: True)
    monkeypatch.setattr(pathlib.Path, "is_dir", lambda _: True)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: find_spec(name) or name)
    if flags == "--help":
        with pytest.raises(SystemExit, match="0"):
            parse_args([flags])
    else:
        parse_args(shlex.split(flags))


def test_the_readme_is_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1700
