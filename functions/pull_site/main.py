"""Pull the lists of partner sites: for sites that cannot push, and to find what a push lost.

Kicked by the database's clock when a row of `pull_sources` is due, every 15 minutes unless the row says otherwise. The
partner serves its list to GET with `Authorization: Bearer <token>`:

    GET <url>?limit=100&cursor=<next_cursor of the last page; absent at first>
    200 {"items": [{"id": "8d2f", "occurred_at": "2026-11-21T08:30:00Z", "kind": "form.submitted",
                    "name": "Jo Smith", "email": "jo@example.com", …}, …],
         "next_cursor": "…", "has_more": true}

in the order in which items came to be seen in it, so that new items stand after the last cursor, which stays valid.
The `id` is the `submission_id`, `webhook-id` or `Idempotency-Key` of a push of the same form. A push without any is
recognised by its content for a day, and a page's form only if it says all that the item says. With
`paging = 'since'` the URL has `since=<time>` instead of a cursor, answered in the order of `occurred_at`, the given time
included. A page has at most 1,000 items and 5 MB, and comes within 20 seconds; 429 and 503 may say `Retry-After`.
Redirects are not followed.

An item that was pushed or pulled before adds nothing. A new item is recorded as its push would have been, with the
source `pull:<name>`; an unknown kind is stored and marked. An item that cannot be recorded is kept in `pull_failures`,
and so is an item whose kind is known and not among the source's `kinds`, or not a site's to say.
"""

from shared import settings
from shared.callers.hub import hub
from shared.intake import pulls
from shared.web.endpoint import Instance, endpoint


@endpoint(
    caller=hub,
    needs=(settings.Database,),
    instance=Instance(memory=512, timeout=90, concurrency=1),
)
async def pull_site(_caller: None) -> dict[str, int]:
    return await pulls.pull_due()
