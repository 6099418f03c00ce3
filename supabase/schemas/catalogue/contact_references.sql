-- Each column that holds a contact, and whether a merge moves it.

insert into private.contact_references (table_name, column_name, on_merge) values
  ('contact_identifiers', 'contact_id', 'moves'),
  ('contact_identifiers', 'home_id', 'stays'),
  ('leads', 'contact_id', 'moves'),
  ('leads', 'home_id', 'stays'),
  ('events', 'contact_id', 'stays'),
  ('contact_facts', 'contact_id', 'stays'),
  ('agent_actions', 'contact_id', 'stays'),
  ('agent_memory', 'subject_id', 'stays'),
  ('merge_candidates', 'contact_id', 'stays'),
  ('merge_candidates', 'other_id', 'stays'),
  ('contact_merges', 'winner_id', 'stays'),
  ('contact_merges', 'loser_id', 'stays'),
  ('contacts', 'merged_into', 'stays'),
  ('suppressions', 'contact_id', 'stays');
