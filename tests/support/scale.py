"""How much is tried: what a developer waits for, or with SUBMISSIONS=5000 what CI and releases do."""

import os

SUBMISSIONS = int(os.environ.get("SUBMISSIONS", "1000"))
IS_WHOLE = SUBMISSIONS >= 5000


def scaled(few: int, whole: int) -> int:
    return whole if IS_WHOLE else few
