"""What must be so of contacts at any time, merged or not: statements that answer nothing."""

from uuid import UUID

from support.hubs import Hub

INVARIANTS = {
    "a merge names the contact that is seen, not one that is merged itself": """
        select contacts.id from public.contacts join public.contacts as seen on seen.id = contacts.merged_into
        where contacts.org_id = %(org)s and seen.merged_into is not null""",
    "a contact is merged when, and only when, a merge of it stands": """
        select contacts.id from public.contacts
        where contacts.org_id = %(org)s and (contacts.merged_into is not null) <> exists (
          select from public.contact_merges where loser_id = contacts.id and undone_at is null)""",
    "whoever a contact was merged into is seen under the same contact": """
        select loser.id from public.contact_merges
        join public.contacts as loser on loser.id = loser_id join public.contacts as winner on winner.id = winner_id
        where contact_merges.org_id = %(org)s and undone_at is null
          and loser.merged_into <> coalesce(winner.merged_into, winner.id)""",
    "what moves is with the contact under which its home is seen": """
        select held.id from (
          select id, org_id, contact_id, home_id from public.contact_identifiers
          union all select id, org_id, contact_id, home_id from public.leads) as held
        where held.org_id = %(org)s and held.contact_id <> private.visible_contact(held.home_id)""",
    "an address points to one person": """
        select match_key from public.contact_identifiers where org_id = %(org)s and kind = 'email' and strength = 'strong'
        group by match_key having count(*) > 1""",
    "a folded lead is folded into one of the same person at the same site": """
        select leads.id from public.leads join public.leads as stands on stands.id = leads.folded_into
        where leads.org_id = %(org)s and (leads.contact_id, leads.site_id) <> (stands.contact_id, stands.site_id)""",
    "a person has one open lead at a site": """
        select contact_id from public.leads where org_id = %(org)s and is_open
        group by contact_id, site_id having count(*) > 1""",
    "whoever asked at a site has a lead there": """
        select events.id from public.events
        where events.org_id = %(org)s and events.subject_type = 'lead' and events.cause_id is null and not exists (
          select from public.leads
          where leads.contact_id = private.visible_contact(events.contact_id) and leads.site_id = events.site_id)""",
    "each contact, and so each of its events, belongs to exactly one person": """
        with members as (
          select unnest(private.contact_family(contacts.id)) as id from public.contacts
          where contacts.org_id = %(org)s and contacts.merged_into is null)
        select contacts.id from public.contacts left join members on members.id = contacts.id
        where contacts.org_id = %(org)s group by contacts.id having count(members.id) <> 1""",
}

# Whatever a merge may change and its undoing must restore; clocks that triggers keep do not count.
STATE = {
    "contacts": "to_jsonb(t) - 'updated_at'",
    "contact_identifiers": "to_jsonb(t)",
    "contact_facts": "to_jsonb(t)",
    "leads": "to_jsonb(t) - 'updated_at'",
    "agent_memory": "to_jsonb(t)",
    "agent_actions": "to_jsonb(t)",
    "merge_candidates": "to_jsonb(t)",
    "suppressions": "to_jsonb(t)",
}


def broken(hub: Hub, org: UUID) -> list[str]:
    return [name for name, statement in INVARIANTS.items() if hub.rows(statement, org=org)]


def state(hub: Hub, org: UUID) -> dict[str, list[str]]:
    return {
        table: sorted(
            text
            for (text,) in hub.rows(f"select ({row})::text from public.{table} as t where org_id = %s", org)
        )
        for table, row in STATE.items()
    }
