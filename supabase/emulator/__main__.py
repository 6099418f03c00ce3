"""Run a hub: python -m emulator --port 54321 --state .state"""

import argparse
import sys
from pathlib import Path

from emulator import process
from emulator.migrations import MigrationRefused
from emulator.postgres import PostgresUnavailable
from emulator.reset import NotAHub, reset
from emulator.stack import Stack, StackFailed, listen, say
from emulator.state import State, StateInUse, StateUnusable


def main() -> None:
    arguments = _arguments()
    if arguments.parent:
        process.die_with(arguments.parent)
    if not arguments.state:
        sys.exit("STATE is empty; name a folder.")
    state = State(Path(arguments.state).resolve())
    try:
        if arguments.reset:
            say(reset(state))
        else:
            state.check()
            state.lock()
            state.open()
            Stack(state, listen(arguments.port)).run()
    except NotAHub:
        sys.exit(f"There is no hub in {state.folder}; nothing was removed.")
    except StateInUse:
        sys.exit(f"A hub already runs on {state.folder}. Stop it, or choose another folder: make run STATE=…")
    except (StackFailed, StateUnusable, PostgresUnavailable, MigrationRefused) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m emulator", description="Run a hub on this machine.")
    parser.add_argument("--port", type=int, default=54321, help="0 takes any free port")
    parser.add_argument("--state", default=".state", help="where its data, keys and logs lie")
    parser.add_argument("--reset", action="store_true", help="remove the hub in STATE instead")
    parser.add_argument("--parent", type=int, help="end when this process, the parent, ends")
    return parser.parse_args()


if __name__ == "__main__":
    main()
