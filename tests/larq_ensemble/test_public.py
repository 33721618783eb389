"""The names that users import: all there, found late, and typed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import larq_ensemble


def test_the_lists_of_public_names_agree() -> None:
    """What is imported late, what `__all__` says, and what a type checker reads."""
    tree = ast.parse(Path(larq_ensemble.__file__).read_text(encoding="utf-8"))
    typed = {
        (alias.name, statement.module)
        for block in tree.body
        if isinstance(block, ast.If)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    late = {(name, f"larq_ensemble.{module}") for name, module in larq_ensemble._EXPORTS.items()}
    assert typed == late
    assert sorted(larq_ensemble.__all__) == sorted([*larq_ensemble._EXPORTS, "__version__"])
    for name in larq_ensemble.__all__:
        assert getattr(larq_ensemble, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'build_ensembl'"):
        _ = larq_ensemble.build_ensembl


def functions(package: str) -> dict[str, ast.FunctionDef]:
    """The public functions of a package, by `package.name`, without importing what has them."""
    found = {}
    root = Path(larq_ensemble.__file__).parents[1]
    folder = root.joinpath(*package.split("."))
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    for statement in imports:
        if statement.module is None or not statement.module.startswith("larq_ensemble."):
            continue
        path = root.joinpath(*statement.module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        names = {alias.name for alias in statement.names}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name in names:
                found[f"{package}.{node.name}"] = node
    return found


PUBLIC = {
    name: function
    for package in ("larq_ensemble", "larq_ensemble.convert", "larq_ensemble.runtime")
    for name, function in functions(package).items()
}


#: One takes what `convert_ensemble` takes, the other the path that its first line names.
UNEXPLAINED = {"larq_ensemble.convert.convert_run", "larq_ensemble.convert.inspect_file"}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_argument_of_a_public_function_is_explained(name: str) -> None:
    function = PUBLIC[name]
    explained = (ast.get_docstring(function) or "").partition("# Arguments")[2]
    if name in UNEXPLAINED:
        assert not explained
        return
    arguments = [*function.args.args, *function.args.kwonlyargs]
    heads = re.findall(r"^    (\w[^:\n]*):", explained.partition("\n# ")[0], re.MULTILINE)
    named = {word for head in heads for word in re.findall(r"\w+", head)}
    assert [argument.arg for argument in arguments if argument.arg not in named] == []


def test_the_package_itself_imports_no_tensorflow() -> None:
    code = "import sys, larq_ensemble; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_type_checker_sees_wrong_arguments(tmp_path) -> None:
    """`mypy --strict` on a user's file: nothing to say of right calls, and each wrong one."""
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(
        "import larq_ensemble\n"
        "backbone = larq_ensemble.build_model('resnet20', input_shape=(32, 32, 3), classes=10)\n"
        "ensemble = larq_ensemble.build_ensemble(backbone, members=4, scheme='bagging')\n"
        "ensemble.compile('adam', bfloat16=True)\n"
        "count: int = ensemble.members\n"
        "larq_ensemble.build_ensemble(backbone, members='four')\n"
        "ensemble.compile('adam', execution='quick')\n"
        "larq_ensemble.fit_members(backbone, [], [], members=2, schema='boosting')\n"
        "larq_ensemble.load_ensembles('a.keras')\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "user.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if line.startswith("user.py:")]
    found = {int(error.split(":")[1]): error for error in errors if ": error:" in error}
    assert set(found) == {6, 7, 8, 9}, done.stdout
    for line, part in {
        6: '"members"',
        7: '"execution"',
        8: '"schema"',
        9: '"load_ensembles"',
    }.items():
        assert part in found[line]
