"""/functions/v1: every function of the manifest, in one process, run as functions-framework runs one."""

from emulator.functions.host import Functions

__all__ = ["Functions"]
