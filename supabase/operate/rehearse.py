"""Rehearse a version of an agent: let it and the published one decide about past events, and tell where they differ.

    python -m operate.rehearse --agent lead-qualifier --version 1 --since 7d --state .state

Nothing takes effect: both rehearse the same events, in their own deliveries. Questions to a model are paid for, within
half of the day's limits.
"""

import argparse
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from operate.hub import Hub, Refused, settings

# Seconds without any progress: a model may take its time, and live work goes before.
PATIENCE = 60
# Failed deliveries are retried later and later.
PATIENCE_WITH_FAILURES = 600
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def main() -> None:
    options = _options()
    try:
        print(rehearse(Hub(settings(options.state)), options.agent, options.version, options.since))
    except Refused as refusal:
        sys.exit(str(refusal))
    except httpx.TransportError as error:
        sys.exit(f"The hub cannot be reached ({type(error).__name__}): is it running?")


def rehearse(hub: Hub, agent: str, version: int, since: datetime) -> str:
    filter = {"since": since.isoformat()}
    published = hub.published(agent)
    if version == published:
        raise Refused(f"Version {version} is the published one: there is nothing to compare it with.")
    subscription = _subscription(hub, agent)
    for each in (published, version):
        _run(hub, subscription, each, filter)
    compared = hub.call("compare_versions", agent=agent, a=published, b=version, filter=filter)
    return "\n".join(_told(agent, compared))


def _subscription(hub: Hub, agent: str) -> str:
    rows = hub.rows(
        "subscriptions", select="name,agents!inner(name)", limit="1", **{"agents.name": f"eq.{agent}"}
    )
    if not rows:
        raise Refused(f"Nothing is brought to {agent}: it has no subscription.")
    return str(rows[0]["name"])


def _run(hub: Hub, subscription: str, version: int, filter: dict[str, str]) -> None:
    asked = hub.call(
        "replay_events",
        subscription=subscription,
        mode="rehearsal",
        version=version,
        filter=filter,
        dry_run=False,
    )
    for replay in asked["replay_ids"]:
        _wait(hub, subscription, version, replay)


def _wait(hub: Hub, subscription: str, version: int, replay: str) -> None:
    told: set[tuple[str, str]] = set()
    seen, last_seen = None, time.monotonic()
    while not (progress := hub.call("replay_progress", replay_id=replay))["is_over"]:
        _say(version, progress, end="")
        if not told:
            _tell(progress["failed"][:1], told)
        tries = sum(failed["attempts"] for failed in progress["failed"])
        if (now := (progress["done"], progress["dead"], tries)) != seen:
            seen, last_seen = now, time.monotonic()
        elif time.monotonic() - last_seen > (PATIENCE_WITH_FAILURES if told else PATIENCE):
            raise Refused(
                f"\n{subscription} makes no more progress: what failed is told above."
                if told
                else f"\n{subscription} takes nothing: is it, its agent or its organization paused?"
                " What waits is rehearsed when it runs again."
            )
        time.sleep(0.2)
    _say(version, progress, end="\n")
    _tell(progress["failed"], told)


def _say(version: int, progress: dict[str, Any], end: str) -> None:
    count = f"\rversion {version}: {progress['done']} of {progress['matched']}"
    print(count, end=end, file=sys.stderr, flush=True)


def _tell(failures: list[dict[str, Any]], told: set[tuple[str, str]]) -> None:
    for failed in failures:
        failure = (failed["event_id"], failed["error"])
        if failure not in told:
            print(f"\r  event {failed['event_id']}: {failed['error']}", file=sys.stderr, flush=True)
        told.add(failure)


def _told(agent: str, compared: dict[str, Any]) -> list[str]:
    lines = [
        f"{agent}: version {compared['b']} against {compared['a']}, {compared['compared']} events,"
        f" {compared['changed']} would be judged differently."
    ]
    lines += [f"  {move['count']:>5}  {move['from']} → {move['to']}" for move in compared["decisions"]]
    for change in compared["changes"]:
        lines.append(
            f"\n{change['contact'] or 'Somebody'} ({change['type']}, {change['event_id']}):"
            f" {_judged(change['was'], change['score'])} → {_judged(change['would_be'], change['new_score'])}"
        )
        lines += [f"  - {reason}" for reason in change["reasons_gone"]]
        lines += [f"  + {reason}" for reason in change["reasons_new"]]
    return lines


def _judged(decision: str, score: int | None) -> str:
    # Not every agent scores.
    return decision if score is None else f"{decision} {score}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Let a version decide about the past, without effects.")
    parser.add_argument("--agent", default="lead-qualifier")
    parser.add_argument("--version", type=int, required=True)
    parser.add_argument("--since", type=_since, default="7d", help="how far back: 30m, 12h, 7d, 4w")
    parser.add_argument("--state", default=".state")
    return parser.parse_args()


def _since(text: str) -> datetime:
    match = re.fullmatch(r"([0-9]{1,4})([mhdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError("how far back, as 30m, 12h, 7d or 4w")
    return datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: int(match[1])})


if __name__ == "__main__":
    main()
