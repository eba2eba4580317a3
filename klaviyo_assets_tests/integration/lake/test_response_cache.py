"""Cached report responses serve other runs for a day; of several runs one sends the request."""

import multiprocessing
import os
import signal
import stat
import time
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from klaviyo_assets.errors import LakeError, StorageError
from klaviyo_assets.lake import response_cache as room
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.response_cache import ReportFailure, ReportResponseCache
from klaviyo_assets.model.report import DateRange
from klaviyo_assets_tests.integration.lake.lake_fixtures import open_lake
from klaviyo_assets_tests.timing import scale_to_load

DAYS = DateRange(date(2026, 10, 1), date(2026, 11, 29))
LATER = DateRange(date(2026, 11, 30), date(2027, 1, 28))
AT = datetime(2027, 2, 1, 3, 0, 7, tzinfo=UTC)
PAGES = [b'{"data": 1}', b"", b"\0\xff" * 9]


class Clock:
    """The time in UTC, as the test has it."""

    def __init__(self) -> None:
        self.now = AT

    def __call__(self) -> datetime:
        """Tell the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give a clock that the test moves."""
    return Clock()


@pytest.fixture
def answers(root: Path, clock: Clock) -> ReportResponseCache:
    """Give the answers of one stream in a lake of its own."""
    return Lake(root, clock=clock).response_cache("flow_series_reports")


def files(root: Path) -> list[str]:
    """Return the names of the files of all answers."""
    return sorted(path.name for path in (root / "lake" / "_answers").rglob("*.answer"))


def test_an_answer_comes_back_whole(answers: ReportResponseCache) -> None:
    """A cached response has its pages, its request and its fetch time, for any later caller."""
    answers.store_response("A", DAYS, ("m2", "m1"), fetched_at=AT, pages=PAGES)
    [stored] = answers.complete_responses("A", fresh_since=AT)
    assert (stored.date_range, stored.message_ids, stored.fetched_at) == (DAYS, ("m2", "m1"), AT)
    assert stored.is_complete
    assert stored.decompress_pages() == PAGES


def test_responses_to_different_requests_are_distinguished(answers: ReportResponseCache) -> None:
    """Metric, days and messages identify a request; its newest response is stored."""
    answers.store_response("A", DAYS, fetched_at=AT - timedelta(hours=1), pages=[b"old"])
    answers.store_response("A", DAYS, fetched_at=AT, pages=[b"new"])
    answers.store_response("A", LATER, fetched_at=AT + timedelta(seconds=1), pages=[b"later"])
    answers.store_response(
        "A", DAYS, ("m",), fetched_at=AT - timedelta(seconds=1), pages=[b"one message"]
    )
    answers.store_response("B", DAYS, fetched_at=AT, pages=[b"another metric"])
    assert [
        each.decompress_pages()
        for each in answers.complete_responses("A", fresh_since=AT - timedelta(days=1))
    ] == [
        [b"later"],
        [b"new"],
        [b"one message"],
    ]


def test_what_is_older_than_wanted_is_not_used(answers: ReportResponseCache) -> None:
    """A restatement sends a new request although a response of this morning is cached."""
    answers.store_response("A", DAYS, fetched_at=AT, pages=PAGES)
    assert answers.complete_responses("A", fresh_since=AT + timedelta(seconds=1)) == []
    assert len(answers.complete_responses("A", fresh_since=AT)) == 1


def test_streams_do_not_see_each_others(root: Path, answers: ReportResponseCache) -> None:
    """The same request to two endpoints has two responses."""
    answers.store_response("A", DAYS, fetched_at=AT, pages=PAGES)
    assert (
        open_lake(root)
        .response_cache("campaign_values_reports")
        .complete_responses("A", fresh_since=AT)
        == []
    )


def test_pages_of_an_asker_that_died_go_on(answers: ReportResponseCache) -> None:
    """Pages of a killed run are no response yet, but the next run need not request them again."""
    answers.store_response("A", DAYS, fetched_at=AT, pages=PAGES[:1], is_complete=False)
    answers.store_response("A", DAYS, fetched_at=AT, pages=PAGES[:2], is_complete=False)
    assert answers.complete_responses("A", fresh_since=AT) == []
    partial = answers.find_partial_response("A", DAYS, fresh_since=AT)
    assert partial is not None
    assert partial.decompress_pages() == PAGES[:2]
    assert answers.find_partial_response("A", LATER, fresh_since=AT) is None
    assert answers.find_partial_response("A", DAYS, ("m",), fresh_since=AT) is None
    answers.store_response("A", DAYS, fetched_at=AT, pages=PAGES)
    assert answers.find_partial_response("A", DAYS, fresh_since=AT) is None
    assert len(answers.complete_responses("A", fresh_since=AT)) == 1


def test_the_age_of_a_response_is_measured_by_our_clock(
    answers: ReportResponseCache, clock: Clock
) -> None:
    """The age counts from our clock, whatever the server's `Date` says."""
    answers.store_response("A", DAYS, fetched_at=clock.now - timedelta(days=30), pages=PAGES)
    assert len(answers.complete_responses("A", fresh_since=clock.now - timedelta(days=31))) == 1


def test_responses_expire_after_a_day(
    answers: ReportResponseCache, clock: Clock, root: Path
) -> None:
    """Vacuum and the next stored response both remove expired ones."""
    answers.store_response("A", DAYS, fetched_at=AT, pages=PAGES)
    clock.now += timedelta(hours=23)
    answers.store_response("B", DAYS, fetched_at=clock.now, pages=PAGES)
    assert len(files(root)) == 2
    clock.now += timedelta(hours=2)
    answers.store_response("C", DAYS, fetched_at=clock.now, pages=PAGES)
    assert len(files(root)) == 2
    clock.now += timedelta(days=2)
    Lake(root, clock=clock).vacuum("flow_series_reports")
    assert files(root) == []


def test_the_oldest_go_when_there_are_too_many(
    answers: ReportResponseCache, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is bounded, however large the responses."""
    monkeypatch.setattr(room, "MAX_RESPONSE_CACHE_BYTES", 4000)
    for number in range(20):
        clock.now += timedelta(seconds=1)
        page = os.urandom(600)
        answers.store_response("A", DAYS, (f"m{number}",), fetched_at=clock.now, pages=[page])
    stored = answers.complete_responses("A", fresh_since=AT)
    assert 2 <= len(stored) <= 6
    assert stored[0].message_ids == ("m19",)
    assert len(files(root)) == len(stored)


@pytest.mark.parametrize(
    "metric_id", ["../../etc/x", "a/b", "..", "x" * 300, "é 🙂", "a\0b", "\ud800", "*"]
)
def test_f64_files_stay_in_their_folder(
    answers: ReportResponseCache, root: Path, metric_id: str
) -> None:
    """Whatever characters an id has, its responses are found, in the folder of all."""
    answers.store_response("other", DAYS, fetched_at=AT, pages=[b"other"])
    answers.store_response(metric_id, DAYS, ("../m", metric_id), fetched_at=AT, pages=[b"mine"])
    with answers.lock_metric(metric_id, warn=print):
        pass
    [stored] = answers.complete_responses(metric_id, fresh_since=AT)
    assert (stored.message_ids, stored.decompress_pages()) == (("../m", metric_id), [b"mine"])
    inside = root / "lake" / "_answers" / "flow_series_reports"
    made = [path for path in root.parent.rglob("*") if path.suffix in {".answer", ".lock"}]
    assert len(made) == 3
    assert all(path.parent == inside and len(path.name) < 128 for path in made)


def test_a_stream_cannot_leave_the_lake(root: Path) -> None:
    """The folder is named by the stream, which is checked like every table's name."""
    with pytest.raises(LakeError, match="cannot name a table"):
        open_lake(root).response_cache("../x")


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "rubbish", "foreign"])
def test_a_damaged_answer_counts_as_missing(
    answers: ReportResponseCache, root: Path, damage: str
) -> None:
    """A truncated or foreign file costs one request and no error."""
    answers.store_response("A", DAYS, fetched_at=AT, pages=[b"x" * 5000])
    [path] = (root / "lake" / "_answers").rglob("*.answer")
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[:-3],
            "empty": b"",
            "flipped": whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:],
            "rubbish": b"{}\n",
            "foreign": whole.replace(b'"A"', b'"B"'),
        }[damage]
    )
    assert answers.complete_responses("A", fresh_since=AT) == []


def test_only_the_user_can_read_them(answers: ReportResponseCache, root: Path) -> None:
    """The folder of the responses is readable by its user alone."""
    answers.store_response("A", DAYS, fetched_at=AT, pages=PAGES)
    folder = root / "lake" / "_answers" / "flow_series_reports"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_no_answer_is_half_there(
    answers: ReportResponseCache, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails in mid-write leaves the previous response, and nothing beside it."""
    answers.store_response("A", DAYS, fetched_at=AT, pages=[b"before"])
    with monkeypatch.context() as patch:
        patch.setattr(room.os, "fsync", full)
        with pytest.raises(StorageError, match="the disk is full"):
            answers.store_response("A", DAYS, fetched_at=AT + timedelta(hours=1), pages=[b"after"])
    [stored] = answers.complete_responses("A", fresh_since=AT)
    assert stored.decompress_pages() == [b"before"]
    assert len(list((root / "lake" / "_answers" / "flow_series_reports").iterdir())) == 1


def full(_: int) -> None:
    """Refuse as a full disk does."""
    raise OSError(28, "No space left on device")


def pay_once(root: str, paid: Connection) -> None:
    """Ask as a run does: look, and pay only for what is not there."""
    answers = Lake(Path(root), clock=Clock()).response_cache("flow_series_reports")
    with answers.lock_metric("A", warn=print):
        requests = 0
        if not answers.complete_responses("A", fresh_since=AT):
            time.sleep(0.3)
            requests = 1
            answers.store_response("A", DAYS, fetched_at=AT, pages=PAGES)
    paid.send(requests)


def test_sibling_runs_pay_once(root: Path, answers: ReportResponseCache) -> None:
    """Three processes that need the same window at once send one request between them."""
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(3)]
    made = [context.Process(target=pay_once, args=(str(root), end)) for _, end in ends]
    for process, (_, theirs) in zip(made, ends, strict=True):
        process.start()
        theirs.close()
    assert sorted(mine.recv() for mine, _ in ends) == [0, 0, 1]
    for process in made:
        process.join()
    assert len(answers.complete_responses("A", fresh_since=AT)) == 1


def hold(root: str, held: Connection) -> None:
    """Hold a metric's lock until killed."""
    answers = Lake(Path(root), clock=Clock()).response_cache("flow_series_reports")
    with answers.lock_metric("A", warn=print):
        held.send("held")
        signal.pause()


def test_waiting_is_logged_bounded_and_ends_when_the_owner_dies(
    root: Path, answers: ReportResponseCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiting run logs whom it waits for, gives up in the end, and outlives a killed owner."""
    monkeypatch.setattr(room, "FIRST_WAIT_WARNING_SECONDS", 0.1)
    monkeypatch.setattr(room, "LOCK_POLL_SECONDS", 0.05)
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=hold, args=(str(root), theirs))
    process.start()
    theirs.close()
    assert mine.recv() == "held"
    warnings: list[str] = []
    with (
        pytest.raises(StorageError, match="metric 'A' and has not ended in"),
        answers.lock_metric("A", warn=warnings.append, timeout_seconds=1.0),
    ):
        pytest.fail("the lock is held by another process")
    assert len(warnings) == 1
    assert "another run is asking about metric 'A': waiting" in warnings[0]
    with answers.lock_metric("B", warn=warnings.append, timeout_seconds=0.4):
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with answers.lock_metric("A", warn=warnings.append, timeout_seconds=1.0):
        pass


def test_a_wider_answer_serves_a_narrower_question(answers: ReportResponseCache) -> None:
    """A response about all messages, or more of them, serves a request about some."""
    answers.store_response("A", DAYS, ("m1", "m2"), fetched_at=AT, pages=PAGES)
    answers.store_response("A", LATER, fetched_at=AT, pages=PAGES)
    some, everything = sorted(
        answers.complete_responses("A", fresh_since=AT), key=lambda each: each.date_range
    )
    assert some.can_answer(DAYS, ("m2",))
    assert not some.can_answer(DAYS, ("m2", "m3"))
    assert not some.can_answer(DAYS, ())
    assert not some.can_answer(LATER, ("m2",))
    assert everything.can_answer(LATER, ("m3",))
    assert everything.can_answer(LATER, ())


def test_time_frames_asked_lately_are_known(answers: ReportResponseCache, clock: Clock) -> None:
    """Recent time frames are those of any metric, if requested for all messages."""
    answers.store_response("A", DAYS, fetched_at=AT, pages=PAGES)
    clock.now += timedelta(hours=2)
    answers.store_response("B", LATER, fetched_at=AT, pages=PAGES)
    answers.store_response(
        "B", DateRange(DAYS.first, DAYS.first), ("m1",), fetched_at=AT, pages=PAGES
    )
    assert answers.recent_timeframes(max_age=timedelta(hours=3)) == {DAYS, LATER}
    assert answers.recent_timeframes(max_age=timedelta(hours=1)) == {LATER}


def place(root: str, ready: Connection, written: str) -> None:
    """Place totals three times without a pause, and note each time who did."""
    answers = Lake(Path(root), clock=Clock()).response_cache("campaign_values_reports")
    ready.send("ready")
    ready.recv()
    for _ in range(3):
        with answers.lock_allocation(warn=print), Path(written).open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} ")
            file.flush()
            # Long enough for the other to be waiting when it ends.
            time.sleep(scale_to_load(0.3))
            file.write(f"{os.getpid()}\n")


def test_those_who_place_totals_take_turns(root: Path, tmp_path: Path) -> None:
    """One process allocates totals at a time; after its turn the waiting one is next."""
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(2)]
    noted = tmp_path / "noted"
    made = [context.Process(target=place, args=(str(root), end, str(noted))) for _, end in ends]
    for process, (_, theirs) in zip(made, ends, strict=True):
        process.start()
        theirs.close()
    for mine, _ in ends:
        assert mine.recv() == "ready"
    for mine, _ in ends:
        mine.send("go")
    for process in made:
        process.join()
    lines = [line.split() for line in noted.read_text().splitlines()]
    assert all(partial == ended for partial, ended in lines)
    assert len(lines) == 6
    handed_over = [one != other for (one, _), (other, _) in pairwise(lines)]
    # Five, on a machine that does not stand still; without turns it would be one.
    assert sum(handed_over) >= 3


def test_failures_are_remembered_by_metric(
    answers: ReportResponseCache, root: Path, clock: Clock
) -> None:
    """Failures are stored until two days pass without a new one; half a file counts as none."""
    first = ReportFailure(failed_at=AT, request="2026-10-01 2026-11-29", reason="It failed.")
    answers.store_failures("A", [first])
    answers.store_failures("B/..", [first, first])
    other = Lake(root, clock=clock).response_cache("flow_series_reports")
    assert other.failures("A") == (first,)
    assert other.failed_metrics() == {"A": (first,), "B/..": (first, first)}
    other.store_failures("A", [])
    assert answers.failed_metrics() == {"B/..": (first, first)}
    clock.now += timedelta(hours=47)
    answers.prune()
    assert answers.failures("B/..")
    for path in (root / "lake" / "_answers").rglob("*.failed"):
        path.write_bytes(path.read_bytes()[:9])
    assert not answers.failed_metrics()
    clock.now += timedelta(hours=2)
    answers.prune()
    assert not [*(root / "lake" / "_answers").rglob("*.failed")]
