-- Contact references: whether a merge moves a column that holds a contact, or leaves it.

create type private.merge_behaviour as enum ('moves', 'stays');

create table private.contact_references (
  table_name  text not null,
  column_name text not null,
  on_merge    private.merge_behaviour not null,

  primary key (table_name, column_name)
);
comment on table private.contact_references is
  'Every column that holds a contact. A table that moves has contact_id and home_id, and moves by these rows alone; a table that stays is read through contact_family.';
