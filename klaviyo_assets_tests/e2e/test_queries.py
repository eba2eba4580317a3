"""Twelve questions of an analyst: docs/queries.md has their answers; every reader gives them."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from deltalake import DeltaTable

from klaviyo_assets_tests.contract.dictionary_pages import documented_relations, join_paths
from klaviyo_assets_tests.duckdb_releases import (
    CLI_RELEASE,
    LIBRARY_RELEASES,
    query_with_release,
    run_cli,
)
from klaviyo_assets_tests.e2e.analyst_questions import (
    PAGE,
    QUESTIONS,
    Answer,
    Question,
    answer_questions,
    format_rows,
    queries_page,
)
from klaviyo_assets_tests.e2e.demo_lake import open_demo_lake
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.test_duckdb_releases import POLARS
from klaviyo_assets_tests.package_releases import install_package

Answers = dict[Question, tuple[str, Answer]]

UTC_SESSION = "SET TimeZone = 'UTC'"

ASK_WITH_POLARS = """
import json, sys
import duckdb

path, queries = json.load(sys.stdin)
with duckdb.connect(path, read_only=True) as database:
    database.execute("SET TimeZone = 'UTC'")
    print(json.dumps([database.sql(query).pl().rows() for query in queries], default=str))
"""


@pytest.fixture(scope="module")
def home(dagster_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Give the lake that the page asks; it stays as it is."""
    with open_demo_lake(tmp_path_factory.mktemp("demo"), dagster_template) as home:
        yield home


@pytest.fixture(scope="module")
def answers(home: Home) -> Answers:
    """Give each question's SQL and answer."""
    return answer_questions(home)


def test_the_page_has_every_question_with_its_answer(answers: Answers) -> None:
    """`python -m klaviyo_assets_tests.e2e.analyst_questions` writes it anew; read the diff."""
    assert len(answers) == 12
    page = queries_page(answers, library=LIBRARY_RELEASES[0], cli=CLI_RELEASE)
    assert PAGE.read_text(encoding="utf-8") == page


def test_every_question_has_an_answer(answers: Answers) -> None:
    """None is without rows, and no column without any value."""
    for question, (_, (names, rows)) in answers.items():
        assert rows, question.title
        for number, name in enumerate(names):
            assert any(row[number] for row in rows), (question.title, name)


def test_the_last_answer_names_its_cause(home: Home, answers: Answers) -> None:
    """Opens and clicks of the campaign: the report goes by the day of sending, all else agrees."""
    sql, _ = answers[QUESTIONS[-1]]
    columns = "report, events, events_by_send_day, aggregates, cause, aggregates_cause"
    rows = home.query(f"SELECT {columns} FROM ({sql.rstrip(';')})")
    assert len(rows) == 4
    for report, events, by_send_day, aggregates, cause, aggregates_cause in rows:
        assert events < report == by_send_day
        assert aggregates == events
        assert (cause, aggregates_cause) == ("the report counts by the day of sending", "agree")


def test_the_documented_joins_find_rows(home: Home) -> None:
    """Each join of docs/joins.md between tables of this lake, where its column has a value.

    What reports and events call message is a variation since revision 2026-10-15.
    """
    names = {name for (name,) in home.query("SHOW TABLES")}
    found = 0
    for each in join_paths(documented_relations()):
        if not {each.relation, each.target} <= names:
            continue
        ids = f"unnest({each.column})" if each.is_list else each.column
        target = f"SELECT id FROM {each.target}"
        if each.target == "campaign_messages":
            target += " UNION ALL SELECT id FROM campaign_variations"
        ((values, joined),) = home.query(
            f"SELECT count(*), count(*) FILTER (id IN ({target})) "
            f"FROM (SELECT DISTINCT {ids} AS id FROM {each.relation}) WHERE id IS NOT NULL"
        )
        assert joined or not values, each
        found += bool(joined)
    assert found > 30


def test_an_older_duckdb_answers_them(home: Home, answers: Answers) -> None:
    """The library that other tools carry."""
    found = query_with_release(
        LIBRARY_RELEASES[0],
        home.data_dir / "klaviyo.duckdb",
        *(sql for sql, _ in answers.values()),
    )
    for (question, (_, (_, rows))), other in zip(answers.items(), found, strict=True):
        assert format_rows(other) == rows, question.title


def test_the_command_line_answers_them(home: Home, answers: Answers) -> None:
    """DuckDB's own client, of the release that pip gives, as one types."""
    for question, (sql, (names, rows)) in answers.items():
        printed = run_cli(home.data_dir / "klaviyo.duckdb", UTC_SESSION, sql)
        head, *body = csv.reader(io.StringIO(printed))
        assert tuple(head) == names, question.title
        assert [tuple(map(cell_of_csv, row)) for row in body] == rows, question.title


def test_pandas_answers_them(home: Home, answers: Answers) -> None:
    """As a frame, with NULLs as pandas has them."""
    with duckdb.connect(str(home.data_dir / "klaviyo.duckdb"), read_only=True) as database:
        database.execute(UTC_SESSION)
        for question, (sql, (names, rows)) in answers.items():
            frame = database.sql(sql).df()
            assert tuple(frame.columns) == names
            assert format_rows(frame.astype(object).to_numpy().tolist()) == rows, question.title


def test_polars_answers_them(home: Home, answers: Answers) -> None:
    """As a frame of Polars, in a process that has it."""
    queries = [sql for sql, _ in answers.values()]
    printed = run_with_polars(
        ASK_WITH_POLARS, [str(home.data_dir / "klaviyo.duckdb"), queries], home.root
    )
    for (question, (_, (_, rows))), found in zip(answers.items(), json.loads(printed), strict=True):
        assert format_rows(found) == rows, question.title


def test_a_delta_reader_answers_what_reads_stored_tables(home: Home, answers: Answers) -> None:
    """The tables alone, read by deltalake, hold the same answer: no klaviyo.duckdb is opened."""
    asked = [each for each in answers if each.tables]
    assert asked
    with duckdb.connect() as database:
        database.execute(UTC_SESSION)
        for name in {table for each in asked for table in each.tables}:
            table = DeltaTable(str(home.data_dir / "lake" / name)).to_pyarrow_table()
            database.register(name, table)
        for question in asked:
            sql, (_, rows) = answers[question]
            assert format_rows(database.sql(sql).fetchall()) == rows


def test_the_page_s_code_runs(home: Home, tmp_path: Path) -> None:
    """Both programs at its head, in a folder with the demo's data: their output is the lake's."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "data").symlink_to(home.data_dir)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    printed = run_with_polars("\n".join([*blocks, "print(len(frame))"]), None, tmp_path)
    counts = home.query(
        "SELECT attributed_campaign_id IS NOT NULL, count(*) FROM events_detailed "
        "WHERE metric_name = 'Placed Order' GROUP BY 1"
    )
    for is_of_campaign, count in counts:
        assert re.search(rf"{str(is_of_campaign).lower()} +┆ {count} ", printed), printed
    assert printed.split()[-1] == str(home.row_count("profiles_core"))


def cell_of_csv(text: str) -> str:
    """Return a cell that the command line prints, as the page has it."""
    return "" if text == "NULL" else re.sub(r"^(-?\d+)\.0$", r"\1", text)


def run_with_polars(program: str, given: object, folder: Path) -> str:
    """Return what a program prints in a process that can import Polars."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(install_package(POLARS))},
        cwd=folder,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
