"""A planned answer as one SELECT, embeds as lateral joins."""

from emulator.rest.catalog import Relationship
from emulator.rest.conditions import cast, column_of, field_value, order_by, predicates, where
from emulator.rest.plan import Node, output_names
from emulator.rest.query import Column, Page
from emulator.rest.sql import NOTHING, Sql, joined, name, sql, value


def select(node: Node, source: Sql) -> Sql:
    """The rows of this level out of `source`, the text after FROM."""
    return sql(
        "select {} from {}{}{}{}{}",
        joined(", ", _outputs(node)),
        source,
        joined("", (_lateral(embed) for embed in node.embeds)),
        where([*predicates(node), *_joins(node)]),
        order_by(node),
        _limit(node.page),
    )


def count(node: Node, source: Sql) -> Sql:
    """One row for each row that the answer would have without its page."""
    inner = [_exists(embed) for embed in node.embeds if embed.embed and embed.embed.is_inner]
    conditions = [*predicates(node, _found), *_joins(node), *inner]
    return sql("select 1 from {}{}", source, where(conditions))


def _found(embed: Node, wanted: bool) -> Sql:
    exists = _exists(embed)
    return exists if wanted else sql("not {}", exists)


def _exists(embed: Node) -> Sql:
    return sql("exists ({})", count(embed, _embedded_source(embed)))


def _outputs(node: Node) -> list[Sql]:
    outputs = [_column(node, column) for column in node.columns]
    for embed in node.embeds:
        if embed.is_empty:
            continue
        if embed.embed is not None and embed.embed.is_spread:
            outputs.extend(_spread(embed))
        elif embed.relationship is not None and embed.relationship.is_to_one:
            outputs.append(sql("row_to_json({}.*) as {}", embed.alias, name(embed.label)))
        else:
            outputs.append(sql("coalesce({}.pgrst_rows, '[]') as {}", embed.alias, name(embed.label)))
    # An embed asked for without columns still has to find its rows.
    return outputs or [sql("1 as pgrst_found")]


def _column(node: Node, column: Column) -> Sql:
    if column.is_star:
        return sql("{}.*", node.reference)
    selected = field_value(node, column.field)
    if column.cast is not None:
        selected = cast(selected, column.cast)
    if column.alias is None and column.cast is None and not column.field.path:
        return selected
    return sql("{} as {}", selected, name(column.label))


def _spread(embed: Node) -> list[Sql]:
    names = [name(each) for each in output_names(embed)]
    if embed.relationship is not None and embed.relationship.is_to_one:
        return [sql("{}.{}", embed.alias, each) for each in names]
    return [sql("coalesce({}.{}, '[]') as {}", embed.alias, each, each) for each in names]


def _lateral(embed: Node) -> Sql:
    rows = select(embed, _embedded_source(embed))
    is_inner = embed.embed is not None and embed.embed.is_inner
    join = sql(" inner join lateral" if is_inner else " left join lateral")
    if embed.relationship is not None and embed.relationship.is_to_one:
        return sql("{} ({}) as {} on true", join, rows, embed.alias)
    gathered = sql("select count(*) as pgrst_count, {} from ({}) as {}", _gathered(embed), rows, embed.alias)
    found = sql("{}.pgrst_count > 0", embed.alias) if is_inner else sql("true")
    return sql("{} ({}) as {} on {}", join, gathered, embed.alias, found)


def _gathered(embed: Node) -> Sql:
    if embed.embed is None or not embed.embed.is_spread or embed.is_empty:
        return sql("json_agg({}) as pgrst_rows", embed.alias)
    names = [name(each) for each in output_names(embed)]
    return joined(", ", (sql("json_agg({}.{}) as {}", embed.alias, each, each) for each in names))


def _embedded_source(embed: Node) -> Sql:
    relationship, parent = _link(embed)
    if relationship.function is not None:
        row = sql("{}.*::{}", parent.reference, name(*relationship.origin))
        return sql("{}({}) as {}", name(*relationship.function), row, embed.reference)
    source = sql("{} as {}", name(*relationship.target), embed.reference)
    if relationship.junction is None:
        return source
    return sql("{}, {} as {}", source, name(*relationship.junction.table), _junction(embed))


def _joins(node: Node) -> list[Sql]:
    """The conditions that tie an embed's rows to the row above them."""
    if node.relationship is None:
        return []
    relationship, parent = _link(node)
    if relationship.junction is None:
        return [
            sql("{} = {}", column_of(node, there), column_of(parent, here))
            for here, there in relationship.columns
        ]
    junction = _junction(node)
    to_parent = [
        sql("{}.{} = {}", junction, name(there), column_of(parent, here))
        for here, there in relationship.junction.to_origin
    ]
    to_node = [
        sql("{} = {}.{}", column_of(node, there), junction, name(here))
        for here, there in relationship.junction.to_target
    ]
    return to_parent + to_node


def _link(embed: Node) -> tuple[Relationship, Node]:
    if embed.relationship is None or embed.parent is None:
        raise ValueError(f"{embed.label} is not embedded")
    return embed.relationship, embed.parent


def _junction(embed: Node) -> Sql:
    return name(f"pgrst_junction_{embed.number}")


def _limit(page: Page) -> Sql:
    if page.is_everything:
        return NOTHING
    limit = sql("all") if page.limit is None else value(str(page.limit))
    return sql(" limit {} offset {}", limit, value(str(page.offset)))


def limited(rows: Sql, most: int) -> Sql:
    return sql("{} limit {}", rows, value(str(most)))
