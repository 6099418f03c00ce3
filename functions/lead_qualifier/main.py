"""Score new leads: for each submitted form a score, a band, the reasons in words and a next step.

Kicked by the hub when forms wait. It decides by the rules in its agent's published version and, where a model is
configured and the version has a prompt, by the model within what the rules allow. The decision becomes an action,
the lead's score, the memory of the contact and a `lead.qualified` event when the delivery is settled, or not at
all. A model that fails costs a lead 12 seconds at most: then the rules decide alone.
"""

import hashlib
from typing import Any

import orjson

from shared import settings
from shared.agents.lead_qualifier.enquiries import Enquiry, Memory
from shared.agents.lead_qualifier.judgement import Version, judge
from shared.agents.lead_qualifier.qualification import qualify
from shared.callers.hub import hub
from shared.models import brains
from shared.web.endpoint import Instance, endpoint
from shared.work.drain import Kick, Pace, drain
from shared.work.envelopes import Delivery
from shared.work.outcomes import Done, Permanent


@endpoint(
    caller=hub,
    body=Kick,
    kinds=("json",),
    needs=(settings.Database,),
    wants=(settings.Llm,),
    instance=Instance(timeout=60, concurrency=10),
)
async def lead_qualifier(_caller: None, _kick: Kick) -> dict[str, Any]:
    # An answer that a model was paid for has time to be settled.
    return await drain("lead-qualifier", score, Pace(deadline=40, grace=15))


async def score(delivery: Delivery) -> Done:
    event, agent = delivery.event, delivery.agent
    if agent is None or agent.config is None:
        raise Permanent("the subscription has no agent with a published version")

    version = brains.version_of(agent, Version)
    enquiry = Enquiry.of(delivery, version.rules)
    by_rules = qualify(enquiry.reading, delivery.contact, event.site, version.rules)
    verdict = await judge(delivery, enquiry, by_rules, version)
    lead = verdict.lead
    is_sure = lead.confidence >= version.rules.escalate_below and not verdict.is_doubtful
    return Done(
        action={
            "decision": lead.decision,
            "reasons": lead.reasons,
            "confidence": lead.confidence,
            "outcome": "self_resolved" if is_sure else "escalated",
            "input_digest": hashlib.sha256(orjson.dumps(event.data, option=orjson.OPT_SORT_KEYS)).hexdigest(),
            "input": enquiry.seen(),
            "output": lead.model_dump() | verdict.record(),
            "tokens": verdict.tokens,
            "cost_cents": verdict.cost_cents,
            "version_id": str(agent.version_id),
        },
        lead={"score": lead.score, "reasons": lead.reasons, "next_step": lead.next_step},
        memory=Memory.made_by(lead, event.occurred_at),
        events=[{"type": "lead.qualified", "data": lead.model_dump() | {"decided_by": verdict.decided_by}}],
        result={"score": lead.score, "band": lead.band},
    )
