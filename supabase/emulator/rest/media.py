"""Accept: the form in which the answer goes out."""

import re
from dataclasses import dataclass, replace
from typing import Literal

from emulator.rest.errors import Fault, unsupported

Kind = Literal["json", "object", "array", "csv"]

JSON = "application/json"
OBJECT = "application/vnd.pgrst.object"
ARRAY = "application/vnd.pgrst.array"
PLAN = "application/vnd.pgrst.plan"
CSV = "text/csv"
OPENAPI = "application/openapi+json"

PARAMETER = re.compile(r';\s*([\w-]+)=("[^"]*"|[^;]*)')
PLAN_OPTIONS = ("analyze", "verbose", "settings", "buffers", "wal")
# PostgREST can produce these; this emulator says so when asked and cannot.
KNOWN_ELSEWHERE = {"application/geo+json"}


@dataclass(frozen=True)
class Media:
    kind: Kind
    strips_nulls: bool = False
    plan: Literal["text", "json"] | None = None
    plan_options: tuple[str, ...] = ()

    @property
    def is_singular(self) -> bool:
        return self.kind == "object"

    @property
    def content_type(self) -> str:
        if self.plan is None:
            return f"{self._answer_type}; charset=utf-8"
        options = f"; options={'|'.join(self.plan_options)}" if self.plan_options else ""
        return f'{PLAN}+{self.plan}; for="{self._answer_type}"{options}; charset=utf-8'

    @property
    def _answer_type(self) -> str:
        stripped = ";nulls=stripped" if self.strips_nulls else ""
        return {
            "json": JSON,
            "csv": CSV,
            "object": f"{OBJECT}+json{stripped}",
            "array": f"{ARRAY}+json{stripped}",
        }[self.kind]


def negotiate(accept: str | None, *, plan_enabled: bool) -> Media:
    if not accept:
        return Media("json")
    wanted = _by_preference(accept)
    for item in wanted:
        media = _media(item, plan_enabled)
        if media is not None:
            return media
    for item in wanted:
        if _type(item) in KNOWN_ELSEWHERE:
            raise unsupported(f"media type {_type(item)}")
    raise _none_available(wanted)


def require_openapi(accept: str) -> None:
    """The root has one form, by whichever of these names it is asked for."""
    wanted = _by_preference(accept)
    others = (Media("json"), Media("array"))
    if wanted and not any(_type(each) == OPENAPI or _media(each, False) in others for each in wanted):
        raise _none_available(wanted)


def _none_available(wanted: list[str]) -> Fault:
    return Fault(406, "PGRST107", f"None of these media types are available: {', '.join(wanted)}")


def _by_preference(accept: str) -> list[str]:
    items = [item.strip() for item in accept.split(",") if item.strip()]
    return sorted(items, key=_quality, reverse=True)


def _quality(item: str) -> float:
    said = _parameters(item).get("q", "1")
    try:
        return float(said)
    except ValueError:
        return 0.0


def _type(item: str) -> str:
    return item.partition(";")[0].strip().lower()


def _parameters(item: str) -> dict[str, str]:
    return {key.lower(): content.strip().strip('"') for key, content in PARAMETER.findall(item)}


def _media(item: str, plan_enabled: bool) -> Media | None:
    kind, parameters = _type(item), _parameters(item)
    strips_nulls = parameters.get("nulls") == "stripped"
    match kind:
        case "*/*" | "application/json":
            return Media("json")
        case "application/vnd.pgrst.object" | "application/vnd.pgrst.object+json":
            return Media("object", strips_nulls)
        case "application/vnd.pgrst.array" | "application/vnd.pgrst.array+json":
            return Media("array", strips_nulls)
        case "text/csv":
            return Media("csv")
        case (
            "application/vnd.pgrst.plan"
            | "application/vnd.pgrst.plan+text"
            | "application/vnd.pgrst.plan+json"
        ):
            return _plan(kind, parameters) if plan_enabled else None
        case _:
            return None


def _plan(kind: str, parameters: dict[str, str]) -> Media | None:
    explained = _media(parameters.get("for", JSON), plan_enabled=False)
    if explained is None:
        return None
    asked = parameters.get("options", "").lower().split("|")
    options = tuple(option for option in PLAN_OPTIONS if option in asked)
    return replace(explained, plan="json" if kind.endswith("+json") else "text", plan_options=options)
