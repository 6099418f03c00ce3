"""shared/ is layered: a package imports what stands before it, and itself, and nothing else of ours."""

import ast
from pathlib import Path

SHARED = Path(__file__).parents[2] / "shared"
# The modules beside the packages are the ground on which all of them stand.
ORDER = ("ground", "web", "callers", "work", "outbound", "intake", "models", "channels", "agents")


def layer(module: str) -> str:
    """Of a name such as shared.web.requests."""
    parts = module.split(".")
    return parts[1] if (SHARED / parts[1]).is_dir() else "ground"


def imported(source: Path) -> set[str]:
    names = {"shared"}
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith("shared.")}


def test_no_package_imports_one_that_comes_after_it() -> None:
    upward = {
        f"{source.relative_to(SHARED)} imports {name}"
        for source in SHARED.rglob("*.py")
        for name in imported(source)
        if ORDER.index(layer(name))
        > ORDER.index(layer(".".join(("shared", *source.relative_to(SHARED).with_suffix("").parts))))
    }

    assert upward == set()


def test_a_packages_init_is_its_docstring_and_nothing_else() -> None:
    for package in SHARED.rglob("*/__init__.py"):
        tree = ast.parse(package.read_text())
        assert (ast.get_docstring(tree) is not None, len(tree.body)) == (True, 1), package
