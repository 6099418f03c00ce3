-- The permissions of each role.

insert into public.role_permissions (role, permission)
select roles.role::public.member_role, permission
from (values
  ('{admin,operator,closer,viewer}'::text[], '{organizations.read,memberships.read,sites.read,agents.read}'::text[]),
  ('{admin,operator,viewer}',
   '{contacts.read,leads.read,events.read,deliveries.read,subscriptions.read,actions.read,alerts.read,pulls.read}'),
  ('{closer}', '{leads.read_assigned,leads.update_assigned,suppressions.write_assigned}'),
  ('{admin,operator}',
   '{contacts.update,contacts.merge,leads.update,suppressions.write,agents.pause,actions.review,events.replay,alerts.update,pull_failures.update}'),
  ('{admin}', '{organizations.update,sites.update,subscriptions.write,agents.publish,pulls.update,audit.read}')
) as rights (roles, permissions)
cross join unnest(rights.roles) as roles (role)
cross join unnest(rights.permissions) as permissions (permission);
