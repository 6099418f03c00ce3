"""`make manifest`: functions/manifest.toml and each requirements.txt are made of what main.py declares and imports."""

import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("functions", "shared", "supabase/deploy")
GREET = '''\
"""Greet whoever asks.

And nothing else.
"""

import phonenumbers

from shared import settings
from shared.callers.hub import hub
from shared.web.endpoint import Instance, endpoint


@endpoint(
    caller=hub,
    method="GET",
    needs=(settings.Database,),
    wants=(settings.Llm,),
    instance=Instance(memory=512, timeout=90, concurrency=1, min_instances=1),
)
async def greet(_caller: None) -> dict[str, int]:
    return phonenumbers.COUNTRY_CODE_TO_REGION_CODE
'''


@dataclass
class Tree:
    """As much of the repository as manifests are made of."""

    root: Path

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = {"PYTHONPATH": f"{self.root / 'supabase'}:{self.root}"}
        command = [sys.executable, "-m", "deploy.manifest", *arguments]
        return subprocess.run(command, cwd=self.root, env=path | environment, capture_output=True, text=True)

    def file(self, path: str) -> Path:
        return self.root / "functions" / path

    def add(self, name: str, source: str) -> None:
        self.file(name).mkdir()
        self.file(f"{name}/main.py").write_text(source)

    def manifest(self) -> dict[str, Any]:
        return tomllib.loads(self.file("manifest.toml").read_text())


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    for part in PARTS:
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / ".requirements.lock", tmp_path / ".requirements.lock")
    return Tree(tmp_path)


def test_make_manifest_would_change_nothing() -> None:
    checked = Tree(ROOT).make("--check")

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_new_function_is_listed_as_it_declares_itself(tree: Tree) -> None:
    known = tree.manifest()
    tree.add("greet", GREET)

    made = tree.make()

    assert made.stdout == "  functions/manifest.toml\n  functions/greet/requirements.txt\n", made.stderr
    assert tree.manifest() == known | {
        "greet": {
            "purpose": "Greet whoever asks.",
            "caller": "hub",
            "method": "GET",
            "settings": ["DATABASE_URL", "HUB_INVOKE_SECRET"],
            "optional_settings": ["LLM_API_KEY", "LLM_BASE_URL", "LLM_MODEL"],
            "memory": 512,
            "timeout": 90,
            "concurrency": 1,
            "min_instances": 1,
            "max_instances": 10,
        }
    }
    required = tree.file("greet/requirements.txt").read_text().splitlines()
    assert "functions-framework==" in "\n".join(required)
    assert [line.partition("==")[0] for line in required if "phone" in line] == ["phonenumbers"]
    assert "email-validator" not in "\n".join(required)


def test_a_function_that_is_gone_is_listed_no_more(tree: Tree) -> None:
    shutil.rmtree(tree.file("sweep"))

    assert tree.make().returncode == 0
    assert "sweep" not in tree.manifest()


def test_making_it_twice_changes_nothing_whatever_is_set(tree: Tree) -> None:
    tree.add("greet", GREET)
    tree.make()
    before = {path: path.read_bytes() for path in tree.file("").rglob("*.t*t*")}

    again = tree.make(LLM_MODEL="a part of a model", TRUSTED_PROXIES="no number")

    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("path", "found", "instead"),
    [
        ("ready/main.py", "Instance(timeout=10)", "Instance(timeout=20)"),
        ("ready/main.py", '"""Say whether', '"""Tell whether'),
        ("manifest.toml", "timeout = 10", "timeout = 11"),
        ("ready/requirements.txt", "asyncpg==", "asyncpg>="),
    ],
)
def test_what_differs_is_named_and_left_as_it_is(tree: Tree, path: str, found: str, instead: str) -> None:
    source = tree.file(path).read_text()
    assert found in source
    tree.file(path).write_text(source.replace(found, instead))
    listed = tree.file("manifest.toml").read_text()

    checked = tree.make("--check")

    named = "functions/ready/requirements.txt" if "requirements" in path else "functions/manifest.toml"
    assert checked.returncode == 1
    assert checked.stderr == f"make manifest would change {named}.\n"
    assert tree.file("manifest.toml").read_text() == listed


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("x = 1\n", "functions/greet/main.py declares no endpoint greet."),
        (GREET.replace("def greet", "def meet"), "functions/greet/main.py declares no endpoint greet."),
        (GREET.partition("import")[2].join(("import", "")), "functions/greet/main.py has no docstring."),
        (
            "import nothing_at_all\n",
            "functions/greet/main.py cannot be imported: No module named 'nothing_at_all'.",
        ),
        ("def (\n", "functions/greet/main.py cannot be imported: invalid syntax (main.py, line 1)."),
    ],
)
def test_what_cannot_be_listed_is_said_in_a_sentence_and_nothing_is_written(
    tree: Tree, source: str, sentence: str
) -> None:
    tree.add("greet", source)
    listed = tree.file("manifest.toml").read_text()

    made = tree.make()

    assert (made.returncode, made.stderr) == (2, sentence + "\n")
    assert tree.file("manifest.toml").read_text() == listed


def test_the_manifest_says_that_it_is_made(tree: Tree) -> None:
    assert tree.file("manifest.toml").read_text().startswith("# Made by `make manifest`")
