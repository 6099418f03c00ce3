"""Record a form of AKF Construction: a contact, a lead and an event, in one transaction.

As ingest-prime, in the words of AKF's forms: your_name, your_email, contact_number, project_type, site_address,
project_details, build_budget, start_date. The event's data is the reading of the form, with the form as it came in `form`.
"""

from typing import Any, ClassVar

from shared.callers import sites
from shared.intake.forms import Submission
from shared.intake.recording import record
from shared.web.endpoint import endpoint
from shared.web.requests import Request


class Enquiry(Submission):
    names: ClassVar = {
        "service": "project_type",
        "area": "site_address",
        "message": "project_details",
        "budget": "build_budget",
        "timeframe": "start_date",
    }


@endpoint(caller=sites.sender("akf"), body=Enquiry)
async def ingest_akf(site: sites.Site, enquiry: Enquiry, request: Request) -> tuple[dict[str, Any], int]:
    return await record(site, enquiry, request), 202
