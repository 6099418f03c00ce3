-- The jobs that the clock runs.

select cron.schedule('forget_ended_keys', '50 * * * *', $$select private.forget_ended_keys()$$);
select cron.schedule('make_event_partitions', '10 * * * *', $$select private.make_event_partitions()$$);
select cron.schedule('prune_history', '20 * * * *', $$select private.prune_history()$$);
select cron.schedule('prune_limits', '*/5 * * * *', $$select private.prune_limits()$$);
select cron.schedule('prune_model_runs', '25 * * * *', $$select private.prune_model_runs()$$);
select cron.schedule('prune_rehearsals', '50 3 * * *', $$select private.prune_rehearsals()$$);
select cron.schedule('pull_sites', '* * * * *', $$select private.kick_pulls()$$);
select cron.schedule('roll_up_site_hours', '3 * * * *', $$select private.roll_up_site_hours()$$);
select cron.schedule('rotate_page_keys', '40 3 * * 0', $$select private.rotate_page_keys()$$);
select cron.schedule('sweep_deliveries', '5 seconds', $$select private.sweep_deliveries()$$);
select cron.schedule('tick_monitors', '*/15 * * * *', $$select private.tick_monitors()$$);
select cron.schedule('watch', '20 seconds', $$select private.watch()$$);
