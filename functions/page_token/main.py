"""Hand out a token with which a page may post a form of its site for ten minutes, without a secret.

GET with `?site=<slug>`, from a browser on one of the site's allowed origins: the token is bound to both. Answers
`token`, to be sent as `x-page-token` with the form, and `expires_in` seconds. Limited per address: 429 says when to
ask again.

    const { token } = await (await fetch(`${hub}/page-token?site=prime`)).json();
    await fetch(`${hub}/ingest-prime`, { method: "POST", body: JSON.stringify(form),
      headers: { "Content-Type": "application/json", "X-Page-Token": token } });
"""

from typing import Any

from shared.callers import pages
from shared.web.endpoint import endpoint


@endpoint(caller=pages.visitor, method="GET")
async def page_token(page: pages.Page) -> dict[str, Any]:
    return await pages.issue(page)
