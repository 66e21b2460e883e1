"""Tools over databases: SQLite's, and PostgreSQL's with the names and arguments of postgres-mcp."""

from jaxlab.evals.ajbench.databases import postgres, sqlite
from jaxlab.evals.ajbench.sandbox.limits import ToolError
from jaxlab.evals.ajbench.sandbox.tools import BOOLEAN, Tool

# Tools of postgres-mcp that advise on speed. They change nothing and answer no question about a
# state, so there are none here, and a replay leaves their calls out.
ADVICE = (
    "analyze_db_health",
    "analyze_query_indexes",
    "analyze_workload_indexes",
    "get_top_queries",
)

_ANYTHING = {"type": "object", "properties": {}}
_KINDS = {"table": "r,p", "view": "v,m", "sequence": "S"}
_SCHEMAS = """
SELECT nspname AS schema_name, pg_catalog.pg_get_userbyid(nspowner) AS schema_owner,
    CASE WHEN nspname ~ '^pg_' OR nspname = 'information_schema' THEN 'system' ELSE 'user' END
    AS schema_type
FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_(toast|temp)' ORDER BY 3 DESC, 1
"""
_OBJECTS = """
SELECT nspname AS schema, relname AS name, $3::text AS type
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE nspname = $1 AND relkind = ANY (pg_catalog.string_to_array($2, ',')::char[]) ORDER BY 2
"""
_EXTENSIONS = """
SELECT extname AS name, extversion AS version FROM pg_catalog.pg_extension ORDER BY 1
"""
_COLUMNS = """
SELECT attname AS column, pg_catalog.format_type(atttypid, atttypmod) AS data_type,
    NOT attnotnull AS is_nullable, pg_catalog.pg_get_expr(adbin, adrelid) AS default
FROM pg_catalog.pg_attribute a
LEFT JOIN pg_catalog.pg_attrdef d ON adrelid = attrelid AND adnum = attnum
WHERE attrelid = pg_catalog.format('%I.%I', $1::text, $2::text)::regclass AND attnum > 0
    AND NOT attisdropped ORDER BY attnum
"""
_CONSTRAINTS = """
SELECT conname AS name, pg_catalog.pg_get_constraintdef(oid) AS definition
FROM pg_catalog.pg_constraint
WHERE conrelid = pg_catalog.format('%I.%I', $1::text, $2::text)::regclass ORDER BY 1
"""
_INDEXES = """
SELECT indexrelid::regclass::text AS name, pg_catalog.pg_get_indexdef(indexrelid) AS definition
FROM pg_catalog.pg_index
WHERE indrelid = pg_catalog.format('%I.%I', $1::text, $2::text)::regclass ORDER BY 1
"""
_VIEW = """
SELECT pg_catalog.pg_get_viewdef(pg_catalog.format('%I.%I', $1::text, $2::text)::regclass)
    AS definition
"""
_SEQUENCE = """
SELECT * FROM pg_catalog.pg_sequences WHERE schemaname = $1 AND sequencename = $2
"""


def querying_sqlite(database: sqlite.Database) -> list[Tool]:
    """One statement, or a list of the tables, of a database in the mode it was opened in."""
    tables = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
    return [
        Tool("execute_sql", "Run one statement.", {"sql": "the statement"}, database.query),
        Tool("list_objects", "Tables and their SQL.", {}, lambda: database.query(tables)),
    ]


def querying_postgres(database: postgres.Database) -> list[Tool]:
    """The tools of postgres-mcp that ask or change a database, in the mode it was opened in."""
    kind = {"object_type": "table (the default), view, sequence or extension"}
    schema = {"schema_name": "such as public"}

    def objects(schema_name: str, object_type: str = "table") -> str:
        if object_type == "extension":
            return database.query(_EXTENSIONS)
        return database.query(_OBJECTS, [schema_name, _kinds(object_type), object_type])

    def details(schema_name: str, object_name: str, object_type: str = "table") -> str:
        if object_type == "extension":
            return database.query(_EXTENSIONS)
        which = [schema_name, object_name]
        _kinds(object_type)
        if object_type == "sequence":
            return database.query(_SEQUENCE, which)
        parts = {"columns": _COLUMNS}
        parts |= {"constraints": _CONSTRAINTS, "indexes": _INDEXES}
        if object_type == "view":
            parts |= {"view": _VIEW}
        answers = (f'"{name}": {database.query(text, which)}' for name, text in parts.items())
        return f"{{{', '.join(answers)}}}"

    def explain(sql: str, analyze: bool = False, hypothetical_indexes: object = None) -> str:
        if hypothetical_indexes:
            raise ToolError("there are no hypothetical indexes here (extension hypopg)")
        mode = "ANALYZE, " if analyze else ""
        return database.query(f"EXPLAIN ({mode}FORMAT JSON) {sql}", [])

    return [
        Tool("list_schemas", "All schemas.", {}, lambda: database.query(_SCHEMAS)),
        Tool(
            "list_objects",
            "Tables, views, sequences or extensions of a schema.",
            {**schema, **kind},
            objects,
            optional=("object_type",),
        ),
        Tool(
            "get_object_details",
            "Columns, constraints and indexes of a table, and the like of others.",
            {**schema, "object_name": "its name", **kind},
            details,
            optional=("object_type",),
        ),
        Tool(
            "explain_query",
            "The plan of a query.",
            {
                "sql": "the query",
                "analyze": "also run it",
                "hypothetical_indexes": "must be empty",
            },
            explain,
            {
                "analyze": BOOLEAN,
                "hypothetical_indexes": {
                    "type": "array",
                    "items": {"type": "object", "properties": {}},
                },
            },
            ("analyze", "hypothetical_indexes"),
        ),
        Tool(
            "execute_sql",
            'Run SQL; "SET ROLE name; SELECT ..." is what this role sees.',
            {"sql": "the SQL"},
            lambda sql: database.query(sql),
        ),
    ]


def _kinds(object_type: str) -> str:
    if object_type not in _KINDS:
        raise ToolError(f"object_type must be extension, {', '.join(_KINDS)}")
    return _KINDS[object_type]
