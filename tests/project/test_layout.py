"""The rules of the layout, read from the source itself: nothing is imported."""

import ast
import functools
import graphlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Lowest first: a package may import itself and those before it.
PACKAGES = {
    "msd_deploy": ROOT / "msd_deploy",
    "msd_export": ROOT / "export" / "msd_export",
    "msd_mobile_bench": ROOT / "mobile_bench" / "msd_mobile_bench",
    "msd_cli": ROOT / "cli" / "msd_cli",
}
FOLDERS = ("cli", "export", "mobile_bench")
OWN_FOLDERS = ("msd_deploy", *FOLDERS, "tests", "benchmarks", "docs")
PICKLING = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
MODULES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
SOURCES = sorted(path for name in OWN_FOLDERS for path in (ROOT / name).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def every_module(function: object) -> object:
    return pytest.mark.parametrize("path", MODULES, ids=name_of)(function)


def every_source(function: object) -> object:
    return pytest.mark.parametrize("path", SOURCES, ids=name_of)(function)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of every module that is imported, wherever the statement stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls_of(tree: ast.AST, function: str) -> list[ast.Call]:
    """Return the calls of a function, named as it is written, for example np.load."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [call for call in calls if ast.unparse(call.func) == function]


def keyword(call: ast.Call, name: str) -> object:
    """Return a call's constant keyword argument; None where it is absent or computed."""
    for argument in call.keywords:
        if argument.arg == name and isinstance(argument.value, ast.Constant):
            return argument.value.value
    return None


def package_of(path: Path) -> str:
    return next(name for name, folder in PACKAGES.items() if path.is_relative_to(folder))


def test_the_four_packages_are_where_they_are_said_to_be() -> None:
    for folder in PACKAGES.values():
        assert (folder / "__init__.py").is_file(), folder


@every_module
def test_imports_go_one_way(path: Path) -> None:
    order = list(PACKAGES)
    above = set(order[order.index(package_of(path)) + 1 :])
    wrong = [name for name in imported_modules(tree_of(path)) if name.split(".")[0] in above]
    assert not wrong, f"{name_of(path)} imports from a layer above its own: {wrong}"


@every_source
def test_no_module_is_imported_through_its_folder(path: Path) -> None:
    """`import export.msd_export` would make a second copy of the module and its classes."""
    wrong = [name for name in imported_modules(tree_of(path)) if name.split(".")[0] in FOLDERS]
    assert not wrong, f"{name_of(path)} says {wrong}: import msd_{wrong[0].split('.')[0]} instead"


@pytest.mark.parametrize("name", FOLDERS)
def test_the_folders_are_no_packages(name: str) -> None:
    """`export` and `cli` are names of a user's own project too."""
    assert not (ROOT / name / "__init__.py").exists()


@pytest.mark.parametrize("name", PACKAGES)
def test_every_package_is_marked_as_typed(name: str) -> None:
    assert (PACKAGES[name] / "py.typed").is_file()


@every_module
def test_every_module_states_its_purpose(path: Path) -> None:
    assert ast.get_docstring(tree_of(path)), f"{name_of(path)} has no docstring"


@every_source
def test_nothing_pickles(path: Path) -> None:
    """A pickle runs code of whoever wrote the file."""
    tree = tree_of(path)
    wrong = [name for name in imported_modules(tree) if name.split(".")[0] in PICKLING]
    assert not wrong, f"{name_of(path)} imports {wrong}"
    for call in calls_of(tree, "torch.load"):
        assert keyword(call, "weights_only") is True, f"{name_of(path)}:{call.lineno}"
    for function in ("np.load", "np.save", "numpy.load", "numpy.save"):
        for call in calls_of(tree, function):
            assert keyword(call, "allow_pickle") is False, f"{name_of(path)}:{call.lineno}"
    for call in calls_of(tree, "torch.save"):
        pytest.fail(f"{name_of(path)}:{call.lineno} writes a pickle")


@every_module
def test_nothing_prints(path: Path) -> None:
    """Stdout belongs to the result, which the command line writes through its console."""
    lines = [call.lineno for call in calls_of(tree_of(path), "print")]
    assert not lines, f"{name_of(path)} prints in lines {lines}"


def dotted_name(path: Path) -> str:
    """Return the name that a module is imported by."""
    parts = path.relative_to(PACKAGES[package_of(path)].parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def runtime_imports(tree: ast.AST) -> Iterator[str]:
    """Yield what `imported_modules` does, without what only type checkers import."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported_modules(node)
        else:
            yield from runtime_imports(node)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports within functions count too. Every module may read the version of its package."""
    names = {dotted_name(path) for path in MODULES}
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        found = list(runtime_imports(tree_of(path)))
        # `from a.b import c` imports the module a.b.c, or c from a.b.
        finer = {name.rpartition(".")[0] for name in found if name in names}
        version = {package for package in PACKAGES if f"{package}.__version__" in found}
        graph[dotted_name(path)] = set(found) & names - finer - version
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def without_entry_points(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.name not in ("__init__.py", "__main__.py")]


def test_no_folder_holds_more_than_20_modules() -> None:
    for folder in sorted({path.parent for path in MODULES}):
        modules = without_entry_points(folder.glob("*.py"))
        assert len(modules) <= 20, f"{name_of(folder)} holds {len(modules)}: make rooms by subject"


COMMAND = "a command: one file each"
LIGHT = "read by nearly every module, and by --help, so without heavy imports"
SETTINGS = "settings of one subject, without heavy imports"
WHY_SHORT = {
    **{
        f"cli/msd_cli/{name}.py": COMMAND
        for name in (
            "bench",
            "calibrate",
            "evaluate",
            "inspect",
            "predict",
            "report",
            "push",
            "sign",
        )
    },
    "cli/msd_cli/embedding/bundle.py": COMMAND,
    "cli/msd_cli/embedding/phone.py": COMMAND,
    "cli/msd_cli/embedding/vectors.py": COMMAND,
    "export/msd_export/config.py": SETTINGS,
    "export/msd_export/evaluate.py": "the work of one command and of tests, equal to export's",
    "export/msd_export/coreai/quantize.py": "imports what int8 alone needs",
    "export/msd_export/executorch/layers.py": "each target's room has its layers at this name",
    "export/msd_export/layers.py": "names that all six targets share",
    "export/msd_export/optimum/quantizer.py": "one class of Optimum's interface",
    "mobile_bench/msd_mobile_bench/api.py": "the door for programs, light to import",
    "mobile_bench/msd_mobile_bench/config.py": SETTINGS,
    "mobile_bench/msd_mobile_bench/footprint.py": "imported by workers, whose memory is measured",
    "msd_deploy/artifacts/write_errors.py": "what each system and library calls a full disk",
    "msd_deploy/data/readers/parquet_tables.py": "one format of a table, beside text_tables",
    "msd_deploy/data/readers/table_file.py": "one reader: FILE.csv, FILE.tsv and FILE.parquet",
    "msd_deploy/data/threads.py": "order and errors of work in threads, tested by itself",
    "msd_deploy/distillation/saliency.py": "one formula of the paper, for two weightings",
    "msd_deploy/errors.py": LIGHT,
    "msd_deploy/hooks.py": LIGHT,
    "msd_deploy/models/pretrained/location.py": "where a checkpoint lies: folder, hub or package",
    "msd_deploy/models/teachers.py": "a teacher for a task, read by training and caching",
    "msd_deploy/pages/formatting.py": "numbers with units, for pages and tables of commands",
    "msd_deploy/pages/page.py": "what the pages of three packages share",
    "msd_deploy/problem.py": LIGHT,
    "msd_deploy/views.py": LIGHT,
}


def test_at_most_25_modules_have_fewer_than_80_lines_each_for_a_reason() -> None:
    """A fragment with one caller belongs to its caller's file."""
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    short = {name_of(path) for path in without_entry_points(MODULES) if lines[path] < 80}
    assert len(short) <= 25, "\n".join(["merge some of these:", *sorted(short)])
    assert short <= WHY_SHORT.keys(), f"no reason: {sorted(short - WHY_SHORT.keys())}"
    there = {name_of(path) for path in MODULES}
    assert WHY_SHORT.keys() <= there, f"not there: {sorted(WHY_SHORT.keys() - there)}"
