"""The code base itself: who may import whom, what may lie in the repository, and that the documents tell the truth."""

import ast
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11")

ROOT = Path(__file__).parent.parent
ON_TOP = {"train_net", "demo", "setup", "tools", "tests", "benchmarks"}


def _tracked() -> list[Path]:
    """The files of the repository, and those about to be added; of an unpacked archive, the files that are there."""
    if shutil.which("git") is None:
        pytest.skip("there is no git: what is in the repository cannot be told from what was built")
    git = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if git.returncode:
        pytest.skip("this is no git checkout: what is in the repository cannot be told from what was built")
    return [path for path in (ROOT / line for line in git.stdout.splitlines()) if path.is_file()]


def _imports(path: Path) -> set[str]:
    """Absolute names of what a module imports, relative imports resolved; what only type checkers see is left out."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    found = set()

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.update({module, *(f"{module}.{alias.name}" for alias in node.names)})
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def _modules(*patterns: str) -> list[Path]:
    paths = sorted({path for pattern in patterns for path in (ROOT / "libra_d2").glob(pattern)})
    assert paths, patterns
    return paths


def _third_party(imports: set[str]) -> set[str]:
    return {name.split(".")[0] for name in imports} - set(sys.stdlib_module_names)


def _offenders(paths: list[Path], wrong: Callable[[set[str]], set[str]]) -> dict[str, set[str]]:
    found = {str(path.relative_to(ROOT)): wrong(_imports(path)) for path in paths}
    return {path: names for path, names in found.items() if names}


# A package imports from its own row and from those above it.
LAYERS = (
    {"checks", "install", "losses", "ops"},
    {"modeling", "data", "checkpoint"},
    {"mmdet", "inference", "evaluation", "config", "visualize"},
    {"engine", "model_zoo"},
    {"cli"},
)


def test_nothing_imports_upwards():
    packages = {path.name for path in (ROOT / "libra_d2").iterdir() if path.is_dir()} - {"__pycache__"}
    assert packages == set().union(*LAYERS) - {"checks"}
    for row, layer in enumerate(LAYERS):
        above = set().union(*LAYERS[row + 1 :])
        paths = [path for name in layer for path in _modules(f"{name}.py" if name == "checks" else f"{name}/**/*.py")]
        assert not _offenders(paths, lambda imports, above=above: _own(imports) & above)


def test_the_layers_are_written_down():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (block,) = re.findall(r"```\n(checks.*?)```", text, re.DOTALL)
    assert tuple(set(line.split(", ")) for line in block.splitlines()) == LAYERS


def test_no_two_packages_import_each_other():
    edges = {
        (path.relative_to(ROOT / "libra_d2").parts[0], other)
        for path in _modules("*/**/*.py")
        for other in _own(_imports(path))
    }
    assert len(edges) > 20
    assert not [(one, other) for one, other in edges if one < other and (other, one) in edges]


def _own(imports: set[str]) -> set[str]:
    """The packages of libra_d2 among them."""
    return {name.split(".")[1] for name in imports if name.startswith("libra_d2.")}


def test_checks_import_nothing():
    assert not _offenders(_modules("checks.py"), _third_party)


def test_operators_and_losses_import_torch_only():
    def wrong(imports):
        return _third_party(imports) - {"torch", "libra_d2"}

    assert not _offenders(_modules("ops/**/*.py", "losses/**/*.py"), wrong)


def test_models_import_operators_losses_and_detectron2_only():
    def wrong(imports):
        foreign = _third_party(imports) - {"torch", "torchvision", "numpy", "fvcore", "detectron2", "libra_d2"}
        return foreign | (_own(imports) - {"checks", "ops", "losses", "data", "checkpoint", "modeling"})

    assert not _offenders(_modules("modeling/**/*.py"), wrong)


def test_user_errors_are_caught_in_one_place():
    paths = [path for path in _modules("**/*.py") if path != ROOT / "libra_d2" / "cli" / "main.py"]
    assert not [path for path in paths if re.search(r"^\s*except .*(UserError|FileError)", path.read_text(), re.M)]


def test_nothing_imports_what_sits_on_top():
    assert not _offenders(_modules("**/*.py"), lambda imports: {name.split(".")[0] for name in imports} & ON_TOP)


def test_only_plot_and_eval_draw_pictures():
    paths = [path for path in _modules("**/*.py") if not {"visualize", "plot.py", "eval.py"} & set(path.parts)]
    drawing = ("libra_d2.visualize", "matplotlib")
    assert not _offenders(paths, lambda imports: {name for name in imports if name.startswith(drawing)})


def test_benchmarks_do_not_import_tests():
    paths = sorted((ROOT / "benchmarks").rglob("*.py"))
    assert not _offenders(paths, lambda imports: {name for name in imports if name.split(".")[0] == "tests"})


def test_importing_the_package_is_light():
    code = "import sys, libra_d2; print(sorted({'torch', 'detectron2', 'matplotlib'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_modules_stay_small():
    sizes = {str(path): len(path.read_text().splitlines()) for path in _modules("**/*.py")}
    assert not {path: size for path, size in sizes.items() if size > 300}


def test_no_two_sources_of_the_core_share_a_stem():
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in {".cpp", ".cu"}]
    assert sources
    assert not [stem for stem, count in Counter(path.stem for path in sources).items() if count > 1]


def test_no_grab_bags():
    bags = {"utils", "util", "misc", "common", "helpers"}
    assert not [path for path in _tracked() if path.stem in bags]


def test_nothing_generated_or_of_others_is_in_the_repository():
    pictures = {".png", ".jpg", ".jpeg", ".gif"}
    kinds = pictures | {".pth", ".pt", ".pkl", ".onnx", ".so", ".o", ".whl", ".zip", ".npz", ".npy"}
    found = [path for path in _tracked() if path.suffix.lower() in kinds]
    # README shows what `make quickstart` drew
    drawn = [path for path in found if path.parent == ROOT / "docs/images" and path.suffix in pictures]
    assert sorted(found) == sorted(drawn)
    assert not [path for path in _tracked() if path.stat().st_size > 300_000]


def test_no_path_of_somebodys_machine_and_no_package_index_is_written_down():
    # put together here, so that this file does not find itself
    home = "|".join("/" + name for name in ("work/", "root/", r"home/\w", r"Users/\w", "opt/py"))
    index = "|".join(("pypi" + r"\.org", "files.python" + "hosted", "download." + "pytorch", "--index" + "-url"))
    found = []
    for path in _tracked():
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if re.search(rf"(?<![\w.])({home})|{index}", line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found


def test_every_requirement_is_pinned_to_what_was_tested():
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    asked = project["project"]["dependencies"] + project["build-system"]["requires"]
    asked += [name for extra in project["project"]["optional-dependencies"].values() for name in extra]
    asked = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in asked}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0] for line in lines if line and not line.startswith("#")}
    assert asked == pinned


def test_the_version_is_the_same_wherever_it_is_named():
    (version,) = re.findall(r'^__version__ = "(.*)"$', (ROOT / "libra_d2" / "__init__.py").read_text(), re.MULTILINE)
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == version
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version
    files = {name for path in DOCUMENTS for name in re.findall(r"libra_d2-(\d+\.\d+\.\d+)", path.read_text())}
    assert files == {version}


def test_continuous_integration_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make test" in script.read_text()


DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_files_and_targets_that_exist(path):
    text = path.read_text()
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = "\n".join(re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL) + re.findall(r"`[^`\n]+`", text))
    assert set(re.findall(r"\bmake ([a-z][\w-]*)", commands)) <= targets

    scripts = set(
        re.findall(r"(?<![\w/.-])((?:tools|benchmarks|configs|docs|tests)/[\w/.-]*\w\.(?:py|ya?ml|md|sh))\b", text)
    )
    scripts |= {f"{name}.py" for name in re.findall(r"\b(train_net|demo|setup)\.py\b", text)}
    links = {link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if not re.match(r"\w+:", link)}
    missing = [name for name in scripts if not (ROOT / name).exists()]
    missing += [link for link in links if not (path.parent / link).exists()]
    assert not missing


def test_there_is_a_readme_with_the_commands_that_matter():
    commands = (ROOT / "README.md").read_text()
    for command in ("make quickstart", "make test", "libra-d2 train", "train_net.py", "demo.py", "DefaultPredictor"):
        assert command in commands
