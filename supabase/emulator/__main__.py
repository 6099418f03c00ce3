"""Run a hub: python -m emulator --port 54321 --state .state"""

import argparse
import sys
from pathlib import Path

from emulator import process
from emulator.migrations import MigrationRefused
from emulator.postgres import PostgresUnavailable
from emulator.reset import NotAHub, reset
from emulator.stack import PORT, Stack, StackFailed, listen, say
from emulator.state import State, StateInUse, StateUnusable


def main() -> None:
    arguments = _arguments()
    if arguments.parent:
        process.die_with(arguments.parent)
    if not arguments.state:
        sys.exit("STATE is empty; name a folder.")
    port = _port(arguments.port)
    try:
        state = State(Path(arguments.state).resolve())
        if arguments.reset:
            say(reset(state))
        else:
            state.check()
            state.lock()
            state.open()
            Stack(state, listen(port)).run()
    except NotAHub as folder:
        sys.exit(f"There is no hub in {folder}; nothing was removed.")
    except StateInUse as folder:
        sys.exit(f"A hub already runs on {folder}. Stop it, or choose another folder: make run STATE=…")
    except (StackFailed, StateUnusable, PostgresUnavailable, MigrationRefused) as error:
        sys.exit(str(error))
    except OSError as error:
        doing = "be removed" if arguments.reset else "run"
        sys.exit(f"The hub cannot {doing}: {error.strerror}{f': {error.filename}' if error.filename else ''}")
    except KeyboardInterrupt:
        sys.exit(130)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m emulator", description="Run a hub on this machine.")
    parser.add_argument("--port", default=str(PORT), help="0 takes any free port")
    parser.add_argument("--state", default=".state", help="where its data, keys and logs lie")
    parser.add_argument("--reset", action="store_true", help="remove the hub in STATE instead")
    parser.add_argument("--parent", type=int, help="end when this process, the parent, ends")
    return parser.parse_args()


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) < 65536):
        sys.exit(f"PORT is a number from 0 to 65535, not {text!r}.")
    return int(text)


if __name__ == "__main__":
    main()
