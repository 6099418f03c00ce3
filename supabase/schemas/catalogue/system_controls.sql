-- The hub's switches.

insert into public.system_controls (name) values ('global_pause');
