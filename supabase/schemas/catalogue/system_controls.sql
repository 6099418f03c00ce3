-- The switches of the whole hub.

insert into public.system_controls (name) values ('global_pause');
