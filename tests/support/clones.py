"""A copy of the repository with a hub of its own, for commands that write files."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.hubs import ROOT, Hub, running_hub

LEFT_BEHIND = shutil.ignore_patterns(
    ".git", ".venv*", ".state*", "dist", "__pycache__", ".*_cache", ".hypothesis", ".temp"
)


@dataclass
class Clone:
    root: Path
    hub: Hub

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run_into(subprocess.PIPE, *command, **variables)

    def run_into(self, stdout: int, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command that prints into this file descriptor."""
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{self.root / 'supabase'}:{self.root}",
            **variables,
        }
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.root,
            env=environment,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    def operate(self, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """What `make` runs for a command."""
        return self.run(f"operate.{command}", "--state", str(self.hub.state), **variables)

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }


@contextlib.contextmanager
def running_clone() -> Iterator[Clone]:
    with tempfile.TemporaryDirectory(prefix="clone-") as folder:
        # The hub's account reads it, too.
        Path(folder).chmod(0o755)
        root = Path(folder) / "clone"
        shutil.copytree(ROOT, root, ignore=LEFT_BEHIND, symlinks=True)
        with running_hub(root=root) as hub:
            yield Clone(root, hub)


def steps(printed: str) -> dict[str, str]:
    """Each step that a command told of, and whether it was done or skipped."""
    return dict(re.findall(r"^  (\S+(?: \S+)?) +(done|skipped) ", printed, re.MULTILINE))
