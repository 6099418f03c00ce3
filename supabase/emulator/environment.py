"""An environment that holds exactly what a lock file names: python environment.py .requirements.lock .venv

Runs before anything is installed, so it uses the standard library only.
"""

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / sys.argv[2]
PYTHON = VENV / "bin" / "python"


def main() -> None:
    lock = Path(sys.argv[1])
    stamp = VENV / lock.name
    # Two `make` in a new clone take turns, whichever lock file each goes by; the turn ends with this process.
    fcntl.flock(os.open(ROOT, os.O_RDONLY), fcntl.LOCK_EX)
    if not works():
        make_venv()
    if not stamp.exists() or stamp.read_text() != lock.read_text():
        install(lock)
        stamp.write_text(lock.read_text())
    stamp.touch()


def works() -> bool:
    """Whether there is an environment, and the Python that it was made with."""
    return (
        PYTHON.exists() and subprocess.run([PYTHON, "-c", "import pip"], capture_output=True).returncode == 0
    )


def make_venv() -> None:
    print(f"Making {VENV.name} with Python {sys.version.split()[0]}", flush=True)
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True)
    if made.returncode != 0:
        sys.exit(
            f"{sys.executable} cannot make a virtual environment; on Debian and Ubuntu the package is "
            f"python3-venv.\n{made.stdout}{made.stderr}"
        )


def install(lock: Path) -> None:
    total = len(re.findall(r"^[a-z]", lock.read_text(), re.MULTILINE))
    print(f"Installing {total} packages (once)", flush=True)
    pip = subprocess.Popen(
        [
            PYTHON,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
            "-r",
            lock,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert pip.stdout is not None
    printed, seen = [], 0
    for line in pip.stdout:
        printed.append(line)
        if found := re.match(r"Collecting (\S+)|Installing collected", line):
            seen += 1
            show(f"  {min(seen, total)}/{total} {found[1] or 'unpacking'}", is_milestone=seen % 20 == 0)
    if pip.wait() != 0:
        sys.exit("".join(printed[-15:]) + "The packages could not be installed; the lines above say why.")
    unpack = "from emulator.postgres import binaries, unprivileged_account; binaries(unprivileged_account())"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "supabase")}
    unpacked = subprocess.run([PYTHON, "-c", unpack], env=environment, stderr=subprocess.PIPE, text=True)
    if unpacked.returncode != 0:
        sys.exit(f"Postgres could not be unpacked: {unpacked.stderr.strip().rpartition('\n')[2]}")
    show("  installed", is_milestone=True)
    print(flush=True)


def show(progress: str, is_milestone: bool) -> None:
    """One line that changes on a terminal, a few lines in a log."""
    if sys.stdout.isatty():
        print(f"\r{progress:<60}", end="", flush=True)
    elif is_milestone:
        print(progress, flush=True)


if __name__ == "__main__":
    main()
