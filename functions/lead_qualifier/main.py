"""Score new leads: for each submitted form a score, a band, the reasons in words and a next step.

Called by the hub when forms wait. It decides by the rules in its agent's published version; the decision
becomes an action, the lead's score and a `lead.qualified` event when the delivery is settled, or not at all.
"""

import hashlib
from typing import Any

import orjson

from shared import auth, deliveries, settings
from shared.endpoint import endpoint
from shared.qualification import Rules, qualify
from shared.submissions import Submission


@endpoint(caller=auth.hub, body=deliveries.Kick, kinds=("json",), needs=(settings.Database,))
async def lead_qualifier(_caller: None, _kick: deliveries.Kick) -> dict[str, Any]:
    return await deliveries.drain("lead-qualifier", score)


async def score(delivery: deliveries.Delivery) -> deliveries.Done:
    event, agent = delivery.event, delivery.agent
    if agent is None or agent.config is None:
        raise deliveries.Permanent("the subscription has no agent with a published version")

    rules = Rules.model_validate(agent.config)
    lead = qualify(Submission.model_validate(event.data), delivery.contact, event.site, rules)
    verdict = lead.model_dump()
    return deliveries.Done(
        action={
            "decision": lead.decision,
            "reasons": lead.reasons,
            "confidence": lead.confidence,
            "outcome": "self_resolved" if lead.confidence >= rules.escalate_below else "escalated",
            "input_digest": hashlib.sha256(orjson.dumps(event.data, option=orjson.OPT_SORT_KEYS)).hexdigest(),
            "output": verdict,
            "version_id": str(agent.version_id),
        },
        lead={"score": lead.score, "reasons": lead.reasons, "next_step": lead.next_step},
        memory={"last_score": lead.score, "last_service": lead.service},
        events=[{"type": "lead.qualified", "data": verdict}],
        result={"score": lead.score, "band": lead.band},
    )
