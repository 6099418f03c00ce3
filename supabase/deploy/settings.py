"""Settings of deployed functions: those that a deployment sets, leaves as they are, or takes away.

A setting that the deploying shell lacks stays as an earlier deployment left it: a shell without LLM_* must not take the
model away. REMOVE="NAME …" in the environment takes settings away on purpose.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deploy.platform import Deployed

type Entry = Mapping[str, Any]
type Manifest = Mapping[str, Entry]
type Environment = Mapping[str, str]
# None when the platform could not be asked.
type Functions = Mapping[str, Deployed] | None

# Public settings go along as they stand in the environment; every other setting is a secret.
PUBLIC = {
    "SUPABASE_URL": "the project's",
    "SUPABASE_PUBLISHABLE_KEY": "the project's",
    "LLM_BASE_URL": "of an OpenAI-compatible endpoint, as in https://api.openai.com/v1",
    "LLM_MODEL": "the model for agents whose version names none",
    "TRUSTED_PROXIES": "how many proxies stand before every function",
    "FUNCTIONS_URL": "below which the functions are",
    "HUB_FUNCTIONS": "the names of all functions, with blanks between",
}
# On Cloud Run one proxy of Google's stands before every function; a load balancer before that is another.
USUAL = {"TRUSTED_PROXIES": "1"}
# The runtime sets these itself.
_OF_THE_RUNTIME = {"LOG_EXECUTION_ID"}


@dataclass(frozen=True)
class Settings:
    """The settings of one function, sorted by their fate."""

    variables: Mapping[str, str]
    secrets: list[str]
    removed_variables: list[str]
    removed_secrets: list[str]
    # Optional settings that are set there, and not here.
    kept: list[str]
    # Public settings that are set neither here nor there.
    missing: list[str]


def settings(function: str, entry: Entry, environment: Environment, functions: Functions) -> Settings:
    known = _known(function, functions)
    # When the platform does not tell, every optional setting may be there, and is removed if asked.
    there = _all_of(_optional(entry)) if functions is None else known
    to_remove = _to_remove(environment)
    optional = [name for name in _optional(entry) if name not in to_remove]
    # They go together: one alone would not let the function start.
    is_given = any(environment.get(name) for name in optional)
    is_known = any(name in known for name in optional)
    names = [*entry["settings"], *(optional if is_given or is_known else [])]
    variables = {name: environment.get(name) for name in names if name in PUBLIC}
    unset = [name for name, value in variables.items() if not value and name not in known]
    return Settings(
        variables={name: value for name, value in variables.items() if value}
        | {name: USUAL.get(name, f"<{name}>") for name in unset},
        secrets=[name for name in names if name not in PUBLIC],
        removed_variables=[name for name in there.variables if name in to_remove],
        removed_secrets=[name for name in sorted(there.secrets) if name in to_remove],
        kept=[] if is_given else [name for name in optional if name in known],
        missing=[name for name in unset if name not in USUAL],
    )


def problems(manifest: Manifest, environment: Environment, functions: Functions) -> Iterator[str]:
    """The parts of REMOVE that cannot be done, as sentences."""
    to_remove = _to_remove(environment)
    for function, entry in manifest.items():
        for name in sorted(to_remove.intersection(entry["settings"])):
            yield f"REMOVE: {name} is needed by {_shown(function)}"
        together = set(_optional(entry))
        if to_remove & together and together - to_remove:
            yield f"REMOVE: {', '.join(sorted(together))} of {_shown(function)} go together"
    for name in sorted(to_remove):
        if environment.get(name):
            yield f"REMOVE: {name} is set here too"
        if functions is not None and not any(name in function for function in functions.values()):
            yield f"REMOVE: {name} is set on no function"


def remarks(manifest: Manifest, environment: Environment, functions: Functions) -> Iterator[str]:
    """Sentences about settings that are set there and not here, and how to take them away."""
    if functions is None:
        yield 'Settings that this shell lacks stay as an earlier deployment left them. To remove one: make deploy REMOVE="NAME …"'
        return
    found = {name: settings(name, entry, environment, functions) for name, entry in manifest.items()}
    kept = {name: it.kept for name, it in found.items() if it.kept}
    for names, having in _by_names(kept):
        yield f"Set on {having} and not here, so kept: {', '.join(names)}." + _removal(names)
        lacking = [
            name
            for name, entry in manifest.items()
            if name not in kept and set(names) <= set(_optional(entry))
        ]
        if lacking:
            yield f"{', '.join(map(_shown, lacking))} would read them too: deploy once with them set."
    unread = {
        name: sorted(
            {*_known(name, functions).names}
            - {*entry["settings"], *_optional(entry), *_to_remove(environment), *_OF_THE_RUNTIME}
        )
        for name, entry in manifest.items()
    }
    for names, having in _by_names({name: them for name, them in unread.items() if them}):
        yield f"Set on {having} and read by nothing there: {', '.join(names)}." + _removal(names)


def _by_names(found: Mapping[str, Iterable[str]]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each set of names with the functions that have it."""
    for names in sorted({tuple(names) for names in found.values()}):
        yield names, ", ".join(_shown(it) for it, them in found.items() if tuple(them) == names)


def _removal(names: Iterable[str]) -> str:
    return f'\n  To remove them: make deploy REMOVE="{" ".join(names)}"'


def _to_remove(environment: Environment) -> set[str]:
    return set(re.findall(r"[^\s,]+", environment.get("REMOVE", "")))


def _known(function: str, functions: Functions) -> Deployed:
    return (functions or {}).get(_shown(function), Deployed())


def _all_of(names: list[str]) -> Deployed:
    variables = {name: "" for name in names if name in PUBLIC}
    return Deployed(variables, frozenset(names) - variables.keys())


def _optional(entry: Entry) -> list[str]:
    optional: list[str] = entry.get("optional_settings", [])
    return optional


def _shown(function: str) -> str:
    return function.replace("_", "-")
