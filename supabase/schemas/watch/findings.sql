-- Findings: a check of the data monitor answers one for each thing that is wrong.
--
-- A check is private.check_<kind of alert>(organization, the agent's thresholds, the time it is).

create type private.finding as (
  subject  text,
  severity public.alert_severity,
  message  text,
  details  jsonb,
  site_id  uuid
);
comment on type private.finding is 'The answer of a check for each thing that is wrong.';
