"""Record a booking or a form of CleanJet: a contact, a lead and an event, in one transaction.

As ingest-prime, in the words of CleanJet's pages: full_name, email_address, mobile, clean_type, special_instructions.
A form with a slot (`slot`, or booking_date and booking_time) is a booking, with service_address and frequency: it
becomes `booking.placed`, whose data says service, address, slot and recurrence; any other is `form.submitted`. The form
as it came is in `form` of the event's data.
"""

from typing import Any, ClassVar

from shared.callers import sites
from shared.intake import bookings
from shared.intake.recording import record
from shared.web.endpoint import endpoint
from shared.web.requests import Request


class Order(bookings.Booking):
    names: ClassVar = {
        "service": "clean_type",
        "message": "special_instructions",
        "address": "address service_address",
        "slot": "slot",
        "date": "date booking_date",
        "time": "time booking_time",
    }


@endpoint(caller=sites.sender("cleanjet"), body=Order)
async def ingest_cleanjet(site: sites.Site, order: Order, request: Request) -> tuple[dict[str, Any], int]:
    return await record(site, order, request), 202
