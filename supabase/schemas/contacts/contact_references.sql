-- Contact references: what happens to each column that holds a contact when two are merged.

create type private.merge_behaviour as enum ('moves', 'stays');

create table private.contact_references (
  table_name  text not null,
  column_name text not null,
  on_merge    private.merge_behaviour not null,

  primary key (table_name, column_name)
);
comment on table private.contact_references is
  'Every column that holds a contact. What moves has contact_id and home_id, and moves by these rows alone; what stays is read through contact_family.';
