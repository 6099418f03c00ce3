"""Silence: a site is missed after as long as it should have sent something, on its own clock and by its own habit."""

import json
import uuid
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
import pytest
from support.hubs import Hub, web

AUCKLAND = ZoneInfo("Pacific/Auckland")
WEEKDAYS = '{"mon": ["07:30", "17:30"], "tue": ["07:30", "17:30"], "wed": ["07:30", "17:30"], "thu": ["07:30", "17:30"], "fri": ["07:30", "17:30"]}'
DAILY = f"{{{', '.join(f'"{day}": ["08:00", "18:00"]' for day in ('mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'))}}}"
# A Monday in winter, with eight weeks without a change of clocks before it.
MONDAY = datetime(2024, 8, 12, tzinfo=AUCKLAND)


class PlantedSite:
    """A site whose past is planted by a test."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.slug = f"quiet-{uuid.uuid4().hex[:10]}"
        hub.sql(
            "with org as (insert into public.organizations (slug, name) values (%(slug)s, 'Quiet') returning id)"
            " insert into public.sites (org_id, number, slug, name, url, time_zone)"
            " select id, 1, %(slug)s, 'Quiet', 'https://quiet.example', 'Pacific/Auckland' from org",
            slug=self.slug,
        )

    def opens(self, hours: str) -> None:
        self.hub.sql("update public.sites set business_hours = %s where slug = %s", hours, self.slug)

    def may_be_quiet_for(self, hours: int) -> None:
        self.hub.sql(
            "update public.sites set quiet_alert_after = make_interval(hours => %s) where slug = %s",
            hours,
            self.slug,
        )

    def sends(self, *times: datetime, by: str = "site", **data: str) -> None:
        self.hub.sql(
            "insert into public.events (id, org_id, site_id, type, source, data)"
            " select private.uuid_v7(at), org_id, id, 'note.kept', %(by)s || ':' || slug, %(data)s"
            " from public.sites, unnest(%(times)s::timestamptz[]) as at where slug = %(slug)s",
            times=list(times),
            by=by,
            data=json.dumps({"form": data}),
            slug=self.slug,
        )

    def is_pulled(self, **columns: bool) -> None:
        self.hub.sql(
            "insert into public.pull_sources (org_id, site_id, name, url, pushes, enabled, next_at)"
            " select org_id, id, slug, 'https://quiet.example', %(pushes)s, %(enabled)s, 'infinity'"
            " from public.sites where slug = %(slug)s",
            slug=self.slug,
            **{"pushes": True, "enabled": True, **columns},
        )

    def sends_daily(self, days: int, until: datetime, *hours: float, each: int = 1) -> None:
        """On each of so many days before `until`, evenly within each of these hours."""
        midnight = until.replace(hour=0, minute=0)
        self.sends(
            *(
                midnight - timedelta(days=day) + timedelta(hours=hour + number / each)
                for day in range(1, days + 1)
                for hour in hours
                for number in range(each)
            )
        )

    def silence(self, at: datetime) -> tuple[timedelta | None, float | None, bool]:
        self.hub.sql("select private.roll_up_site_hours(%s)", at)
        ((open_for, expected, is_silent),) = self.hub.rows(
            "select silence.open_for, silence.expected::float, silence.is_silent"
            " from public.sites, private.site_silence(sites, %s) as silence where slug = %s",
            at,
            self.slug,
        )
        return open_for, expected, is_silent


@pytest.fixture
def site(hub: Hub) -> PlantedSite:
    return PlantedSite(hub)


def test_without_history_two_open_hours_are_the_limit(site: PlantedSite) -> None:
    site.opens(WEEKDAYS)
    friday = MONDAY - timedelta(days=3)
    site.sends(friday.replace(hour=17))

    assert site.silence(friday.replace(hour=23)) == (timedelta(minutes=30), None, False)
    assert site.silence(MONDAY.replace(hour=8, minute=59))[2] is False
    assert site.silence(MONDAY.replace(hour=9)) == (timedelta(hours=2), None, True)


def test_a_site_without_hours_is_always_open(site: PlantedSite) -> None:
    site.sends(MONDAY)

    assert site.silence(MONDAY + timedelta(minutes=119))[2] is False
    assert site.silence(MONDAY + timedelta(minutes=120))[2] is True


def test_a_site_that_never_sent_anything_is_not_silent(site: PlantedSite) -> None:
    assert site.silence(MONDAY)[2] is False


def test_what_agents_say_about_a_site_is_no_sign_of_its_life(site: PlantedSite) -> None:
    site.sends(MONDAY)
    site.hub.sql(
        "insert into public.events (id, org_id, site_id, type, source)"
        " select private.uuid_v7(%s), org_id, id, 'lead.qualified', 'lead-qualifier' from public.sites where slug = %s",
        MONDAY + timedelta(hours=2),
        site.slug,
    )

    assert site.silence(MONDAY + timedelta(hours=3))[2] is True


@pytest.mark.parametrize(
    ("columns", "is_silent"),
    [({}, True), ({"pushes": False}, False), ({"enabled": False}, False)],
    ids=["it pushes", "it is only pulled", "the pull is off"],
)
def test_what_a_pull_makes_up_for_is_no_sign_that_the_push_lives(
    site: PlantedSite, columns: dict[str, bool], is_silent: bool
) -> None:
    site.is_pulled(**columns)
    site.sends(MONDAY)
    site.sends(*(MONDAY + timedelta(minutes=minutes) for minutes in (30, 60, 90, 120, 150)), by="pull")

    assert site.silence(MONDAY + timedelta(hours=3))[2] is is_silent
    counted = site.hub.rows(
        "select sum(arrivals) from private.site_hours join public.sites on sites.id = site_id where slug = %s",
        site.slug,
    )
    assert counted == [(1 if is_silent else 6,)]


def test_the_form_that_tries_a_connection_is_no_sign_of_life(site: PlantedSite) -> None:
    site.sends(MONDAY, submission_id="test-event")
    assert site.silence(MONDAY + timedelta(days=1)) == (None, None, False)

    site.sends(MONDAY + timedelta(days=2), submission_id="8d2f")
    assert site.silence(MONDAY + timedelta(days=2, hours=3))[:2] == (timedelta(hours=3), None)


@pytest.mark.parametrize(
    ("night", "hours"),
    [(datetime(2024, 4, 7), 7), (datetime(2024, 4, 8), 6), (datetime(2024, 9, 29), 5)],
    ids=["clocks go back", "they stay", "clocks go forward"],
)
def test_open_hours_are_those_that_pass_when_clocks_change(
    site: PlantedSite, night: datetime, hours: int
) -> None:
    site.opens('{"sun": ["00:00", "06:00"], "mon": ["00:00", "06:00"]}')
    night = night.replace(tzinfo=AUCKLAND)
    site.sends(night - timedelta(hours=1))

    assert site.silence(night.replace(hour=6))[0] == timedelta(hours=hours)


def test_hours_over_midnight_belong_to_the_day_they_begin(site: PlantedSite) -> None:
    site.opens('{"sun": ["22:00", "02:00"]}')
    site.sends(MONDAY - timedelta(days=1))

    assert site.silence(MONDAY.replace(hour=9))[0] == timedelta(hours=4)


def test_a_habit_makes_no_limit_longer(site: PlantedSite) -> None:
    site.opens(DAILY)
    site.sends_daily(56, MONDAY, 16)

    open_for, expected, is_silent = site.silence(MONDAY.replace(hour=8))
    assert (open_for, is_silent) == (timedelta(hours=2), True)
    assert (expected or 0) < 2
    assert site.silence(MONDAY.replace(hour=7, minute=59) - timedelta(days=1))[2] is True
    assert site.silence(MONDAY - timedelta(days=1) + timedelta(hours=17, minutes=59))[2] is False


def test_who_sends_one_form_a_day_and_may_be_quiet_is_missed_after_days_not_hours(site: PlantedSite) -> None:
    site.opens(DAILY)
    site.may_be_quiet_for(200)
    midnight = MONDAY.replace(hour=0)
    site.sends(*(midnight - timedelta(days=day) + timedelta(hours=8 + day * 7 % 10) for day in range(1, 57)))
    last = MONDAY - timedelta(days=1)

    assert site.silence(MONDAY.replace(hour=18))[2] is False
    assert site.silence(last + timedelta(days=5))[2] is False
    _, expected, is_silent = site.silence(last + timedelta(days=9))
    assert is_silent
    assert 6.9 < (expected or 0) < 10


def test_who_sends_a_form_a_minute_is_missed_after_a_quarter_of_an_hour(site: PlantedSite) -> None:
    site.opens(DAILY)
    site.sends_daily(35, MONDAY, *range(8, 18), each=60)
    site.sends(MONDAY.replace(hour=10))

    assert site.silence(MONDAY.replace(hour=10, minute=14))[2] is False
    assert site.silence(MONDAY.replace(hour=10, minute=15))[2] is True


def test_before_four_weeks_a_site_has_no_habit(site: PlantedSite) -> None:
    site.opens(DAILY)
    site.sends_daily(25, MONDAY, *range(8, 18), each=60)
    site.sends(MONDAY.replace(hour=10))

    assert site.silence(MONDAY.replace(hour=11, minute=59)) == (timedelta(minutes=119), None, False)
    assert site.silence(MONDAY.replace(hour=12))[2] is True


def test_a_campaign_is_not_taken_for_a_habit(site: PlantedSite) -> None:
    site.opens(DAILY)
    site.may_be_quiet_for(200)
    site.sends_daily(42, MONDAY, 9, 15)
    campaign = MONDAY - timedelta(days=14)
    site.sends(*(campaign.replace(hour=10) + timedelta(seconds=second) for second in range(2000)))

    open_for, expected, is_silent = site.silence(MONDAY.replace(hour=13))

    assert (open_for, is_silent) == (timedelta(hours=8), False)
    assert (expected or 0) < 3


def test_a_habit_is_kept_by_the_clock_on_the_wall(site: PlantedSite) -> None:
    """Ten forms between nine and ten, until and after the clocks have changed on 2024-09-29."""
    site.opens(DAILY)
    site.may_be_quiet_for(200)
    change = datetime(2024, 9, 30, tzinfo=AUCKLAND)
    site.sends_daily(42, change, 9, each=10)

    assert site.silence(change.replace(hour=9))[1:] == (1, False)
    assert site.silence(change.replace(hour=10))[1:] == (11, True)
    # In UTC it was the hour from eight to nine, before.
    assert site.silence(change.replace(hour=8, minute=59))[2] is False


def test_each_hour_is_counted_once_however_often_it_is_counted(site: PlantedSite) -> None:
    site.sends_daily(3, MONDAY, 9, each=4)
    for _ in range(2):
        site.hub.sql("select private.roll_up_site_hours(%s)", MONDAY)
    site.hub.sql("select private.roll_up_site_hours(%s)", MONDAY + timedelta(hours=5))

    counted = site.hub.rows(
        "select sum(arrivals), count(*) from private.site_hours join public.sites on sites.id = site_id where slug = %s",
        site.slug,
    )
    assert counted == [(12, 2 * 24 + 15 + 5)]


@pytest.mark.parametrize(
    "change",
    [
        {"time_zone": "Mars/Olympus"},
        {"business_hours": '{"monday": ["08:00", "18:00"]}'},
        {"business_hours": '{"mon": ["8", "18"]}'},
        {"business_hours": '{"mon": ["08:00"]}'},
        {"business_hours": "[]"},
        {"quiet_alert_after": "0 seconds"},
    ],
)
def test_hours_that_no_clock_shows_are_refused(site: PlantedSite, change: dict[str, str]) -> None:
    ((column, value),) = change.items()
    with pytest.raises(psycopg.Error) as refusal:
        site.hub.sql(f"update public.sites set {column} = %s where slug = %s", value, site.slug)
    assert (refusal.value.sqlstate, refusal.value.diag.message_detail) == ("PT422", f"bad_{column}")


def test_who_is_refused_is_told_what_would_be_right(hub: Hub) -> None:
    answer = web.patch(
        f"{hub.url}/rest/v1/sites?slug=eq.prime",
        json={"time_zone": "Auckland"},
        headers=hub.signed_in("ADMIN"),
    )

    assert (answer.status_code, answer.json()["message"]) == (
        422,
        "sites.time_zone is a name such as Pacific/Auckland.",
    )
