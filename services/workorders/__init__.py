"""Work orders: repairs, complaints, inspections and alarms, answered in the time that the community promises."""
