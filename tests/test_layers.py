"""Who may import whom: docs/development.md has the map, this holds it."""

import ast

import pytest
from conftest import ROOT

SCRIPTS = {"img2keras", "pair_generator", "model", "train", "predict"}
GROUND = {"errors", "command_line", "files", "out_of_memory", "tables"}
# What each room may import beside itself and the ground floor.
MAY_IMPORT = {
    "ground": set(),
    "photos": set(),
    "network": {"photos"},
    "devices": {"photos"},
    "training": {"photos", "network", "devices"},
    "evaluation": {"photos", "network", "devices"},
    "demo": {"photos", "network", "devices", "training", "evaluation"},
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in [*ROOT.glob("*.py"), *(ROOT / "pairs").rglob("*.py")]
    if path.name != "__init__.py"
}


def imports(name):
    """Our modules that a module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found & MODULES.keys()


def room(name):
    _, *parts = name.split(".")
    return "ground" if parts[0] in GROUND else parts[0]


def test_the_root_holds_the_five_scripts_and_every_room_is_known():
    assert {path.stem for path in ROOT.glob("*.py")} == SCRIPTS
    assert {room(name) for name in MODULES if name.startswith("pairs.")} == MAY_IMPORT.keys()


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("pairs.")])
def test_a_module_imports_only_from_its_room_and_from_those_below(name):
    own = room(name)
    for other in imports(name):
        assert other not in SCRIPTS, f"{name} imports the script {other}.py"
        assert room(other) in {own, "ground", *MAY_IMPORT[own]}, f"{name} imports {other}"


def test_there_are_no_circles():
    done, path = set(), []

    def visit(name):
        assert name not in path, f"a circle: {' -> '.join([*path, name])}"
        if name not in done:
            path.append(name)
            for other in sorted(imports(name)):
                visit(other)
            path.pop()
            done.add(name)

    for name in MODULES:
        visit(name)
