"""Passwords as bcrypt hashes, worked out beside the event loop."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import bcrypt

COST = 10
LONGEST_PASSWORD = 72  # bytes; bcrypt looks at no more

# Two at most, so that a burst of sign-ins leaves the processor to everybody else.
_workers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="bcrypt")
# A hash of the same cost that no password of this hub has.
_nobody = "$2b$10$abcdefghijklmnopqrstuu37RkUr9H1EPO4Rc63Ngz60LSVREthYa"


async def is_right(password: str, hashed: str | None) -> bool:
    """Compare once, whether or not there is such a user: both take the same time."""
    given = password.encode()
    loop = asyncio.get_running_loop()
    matches = await loop.run_in_executor(
        _workers, bcrypt.checkpw, given[:LONGEST_PASSWORD], (hashed or _nobody).encode()
    )
    return matches and bool(hashed) and len(given) <= LONGEST_PASSWORD


async def hashed(password: str) -> str:
    return await asyncio.get_running_loop().run_in_executor(_workers, hash_now, password)


def hash_now(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(COST)).decode()
