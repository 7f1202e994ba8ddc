from __future__ import annotations

import math
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from pipeline.errors import RequestError, RowError, SystemFault
from pipeline.manifest.listings import files_below
from pipeline.storage import Source, Storage, retry
from pipeline.url import join
from tests.pipeline.servers import WAYS, Answer, Faulty, files, forward, serving


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(retry, "PATIENCE", 0.0)


@pytest.fixture
def faulty_s3(s3: str, s3_server: str, quick_retries: None) -> Iterator[tuple[Faulty, Storage]]:
    """A server before the S3 server, and storage that goes through it."""
    with serving(forward(s3_server)) as faulty:
        yield faulty, Storage({"endpoint_url": faulty.url})


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_reads_what_it_wrote_in_the_order_asked_for(place: str) -> None:
    storage = Storage()
    storage.write({join(place, "deep/er/a"): b"one", join(place, "b"): b"two"})
    sources = [Source(join(place, "b")), Source(join(place, "deep/er/a"))]
    assert storage.read(sources) == [b"two", b"one"]


def test_read_tells_which_are_missing_and_gives_the_others(place: str) -> None:
    storage = Storage()
    storage.write({join(place, "b"): b"two"})
    missing, got = storage.read([Source(join(place, "none")), Source(join(place, "b"))])
    assert got == b"two"
    assert isinstance(missing, RowError)
    assert missing.error_class == "storage"
    assert missing.message == "there is no such file"


@pytest.mark.parametrize(("offset", "size", "expected"), [(0, 3, b"012"), (4, 5, b"45678")])
def test_reads_a_range(place: str, offset: int, size: int, expected: bytes) -> None:
    storage = Storage()
    storage.write({join(place, "x"): b"0123456789"})
    assert storage.read([Source(join(place, "x"), offset, size)]) == [expected]


def test_what_never_ends_or_never_begins_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    paths = ["/dev/zero", str(tmp_path / "pipe.jpg"), str(tmp_path / "folder.jpg")]
    start = time.monotonic()
    for got in Storage().read([*map(Source, paths), *(Source(path, 2, 9) for path in paths)]):
        assert isinstance(got, RowError)
        assert "is a folder, a device or a pipe, and no file" in got.message
    assert time.monotonic() - start < 1


def test_an_empty_range_is_empty(place: str) -> None:
    storage = Storage()
    storage.write({join(place, "x"): b"0123456789"})
    assert storage.read([Source(join(place, "x"), 4, 0)]) == [b""]


def test_one_call_reads_from_several_kinds_of_storage(s3: str, tmp_path: Path) -> None:
    storage = Storage()
    storage.write({join(s3, "a"): b"far"})
    storage.write({str(tmp_path / "a"): b"near"})
    assert storage.read([Source(str(tmp_path / "a")), Source(join(s3, "a"))]) == [b"near", b"far"]


def test_read_one_gives_none_for_what_is_not_there(place: str) -> None:
    storage = Storage()
    assert storage.read_one(join(place, "x")) is None
    storage.write({join(place, "x"): b"here"})
    assert storage.read_one(join(place, "x")) == b"here"


def test_write_replaces(place: str) -> None:
    storage = Storage()
    storage.write({join(place, "x"): b"a long first text"})
    storage.write({join(place, "x"): b"short"})
    assert storage.read_one(join(place, "x")) == b"short"


def test_replaces_only_what_was_seen(place: str) -> None:
    storage, url = Storage(), join(place, "x")
    assert not storage.replace(url, b"none", b"new")
    assert storage.read_one(url) is None
    storage.write({url: b"first"})
    assert storage.replace(url, b"first", b"second")
    assert not storage.replace(url, b"first", b"third")
    assert storage.read_one(url) == b"second"


def test_names_are_those_directly_in_the_folder_sorted(place: str) -> None:
    storage = Storage()
    storage.write({join(place, f"top/{name}"): b"x" for name in ("b", "a", "sub/c")})
    storage.write({join(place, "topmost/d"): b"x"})
    assert storage.names(join(place, "top")) == ["a", "b", "sub"]
    assert storage.names(join(place, "nothing")) == []


def test_delete_takes_the_folder_and_leaves_its_neighbours(place: str) -> None:
    storage = Storage()
    urls = {name: join(place, name) for name in ("old/a", "old/b/c", "old.txt", "older/d")}
    storage.write(dict.fromkeys(urls.values(), b"x"))
    storage.delete(join(place, "old"))
    left = {name for name, url in urls.items() if storage.read_one(url) is not None}
    assert left == {"old.txt", "older/d"}


def test_delete_of_nothing_is_fine(place: str) -> None:
    Storage().write({join(place, "kept"): b"x"})
    Storage().delete(join(place, "none"))
    assert Storage().names(place) == ["kept"]


def test_names_with_odd_characters_are_just_names(place: str) -> None:
    storage = Storage()
    url = join(place, "süß 100% #1 a::b+c&d@e.jpg")
    storage.write({url: b"sweet"})
    assert storage.read([Source(url)]) == [b"sweet"]


def test_a_local_file_is_never_seen_half_written(tmp_path: Path) -> None:
    storage, path = Storage(), tmp_path / "x"
    size = 2_000_000
    storage.write({str(path): b"a" * size})
    seen: set[tuple[int, int]] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            data = path.read_bytes()
            seen.add((len(data), len(set(data))))

    looking = threading.Thread(target=look)
    looking.start()
    for letter in b"bcdefghijk":
        storage.write({str(path): bytes([letter]) * size})
    done.set()
    looking.join()
    assert seen == {(size, 1)}


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken" / "full").mkdir(parents=True)
    with pytest.raises(SystemFault, match=r"cannot write .*/taken"):
        Storage().write({str(tmp_path / "taken"): b"x"})
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "taken", tmp_path / "taken" / "full"]


def test_a_disk_that_takes_but_a_part_of_a_file_has_none_of_it(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(SystemFault, match="too large"):
            Storage().write({str(tmp_path / "x"): b"x" * 1001})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_unfinished_files_lie_in_the_scratch_folder(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    Storage(scratch=str(scratch)).write({str(tmp_path / "out/x"): b"x"})
    assert scratch.is_dir()
    assert not list(scratch.iterdir())
    scratch.rmdir()
    scratch.write_text("in the way")
    with pytest.raises(SystemFault):
        Storage(scratch=str(scratch)).write({str(tmp_path / "out/y"): b"y"})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]


def test_a_folder_in_place_of_a_file_is_a_failed_row(tmp_path: Path) -> None:
    (got,) = Storage().read([Source(str(tmp_path))])
    assert isinstance(got, RowError)
    assert got.error_class == "storage"


def test_check_accepts_a_bucket_that_answers(s3: str, tmp_path: Path) -> None:
    Storage().check(join(s3, "not/there/yet"))
    Storage().check(str(tmp_path / "not/there/yet"))


def test_check_names_the_missing_bucket(s3: str) -> None:
    with pytest.raises(RequestError, match=r"s3://no-such-bucket does not exist"):
        Storage().check("s3://no-such-bucket/some/where")


def test_check_says_where_credentials_come_from(
    s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(RequestError, match="AWS_ACCESS_KEY_ID"):
        Storage({"region": "us-east-1", "anon": "false"}).check(s3)


def test_check_of_an_endpoint_that_is_not_there_is_quick(s3: str) -> None:
    storage = Storage({"endpoint_url": f"http://127.0.0.1:{closed_port()}"})
    start = time.monotonic()
    with pytest.raises(RequestError, match=r"s3://photos cannot be read.*endpoint_url"):
        storage.check(s3)
    assert time.monotonic() - start < 8


def test_a_server_that_says_a_code_and_no_more_is_quoted(s3: str) -> None:
    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        code = "AccessDenied" if request.command == "PUT" else "InvalidRequest"
        return 403, {}, f"<Error><Code>{code}</Code><Message></Message></Error>".encode()

    with serving(answer) as server:
        storage = Storage({"endpoint_url": server.url})
        with pytest.raises(RequestError, match=r"cannot be read: .*InvalidRequest.*operation\. "):
            storage.check(s3)
        with pytest.raises(SystemFault, match=r"AccessDenied.*PutObject operation$"):
            storage.write({join(s3, "x"): b"x"})


def test_check_does_not_list_the_whole_bucket(
    faulty_s3: tuple[Faulty, Storage], s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty, storage = faulty_s3
    storage.write({join(s3, f"{number}.jpg"): b"x" for number in range(20)})
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")  # a page of a listing
    faulty.asked.clear()
    storage.check(join(s3, "some/prefix"))
    assert len(faulty.asked) <= 2


def test_unknown_storage_is_refused() -> None:
    with pytest.raises(RequestError, match="nosuch"):
        Storage().open("nosuch://bucket/a")


def test_an_unknown_option_is_refused(s3: str) -> None:
    with pytest.raises(RequestError, match="colour"):
        Storage({"colour": "red"}).check(s3)


def test_faults_that_pass_are_retried_over_http(quick_retries: None) -> None:
    with serving(files({"/a.jpg": b"picture"})) as server:
        server.faults = 2
        assert Storage(allow_private=True).read([Source(f"{server.url}/a.jpg")]) == [b"picture"]
        assert len(server.asked) == 3


def test_reading_gives_up_after_some_attempts(quick_retries: None) -> None:
    with serving(files({"/a.jpg": b"picture"})) as server:
        server.faults = 99
        (got,) = Storage(allow_private=True).read([Source(f"{server.url}/a.jpg?signature=abc")])
        assert isinstance(got, RowError)
        assert got.error_class == "storage"
        assert "503" in got.message
        assert "abc" not in got.message
        assert len(server.asked) == retry.ATTEMPTS


def test_only_what_failed_is_asked_for_again(quick_retries: None) -> None:
    with serving(files({"/a": b"A", "/b": b"B", "/c": b"C"})) as server:
        server.faults = 1
        got = Storage(allow_private=True).read([Source(f"{server.url}/{name}") for name in "abc"])
        assert got == [b"A", b"B", b"C"]
        assert len(server.asked) == 4


def test_what_is_not_there_is_not_asked_for_again() -> None:
    with serving(files({})) as server:
        (got,) = Storage(allow_private=True).read([Source(f"{server.url}/a.jpg")])
        assert isinstance(got, RowError)
        assert got.message == "there is no such file"
        assert len(server.asked) == 1


def test_writing_to_s3_survives_faults(faulty_s3: tuple[Faulty, Storage], s3: str) -> None:
    faulty, storage = faulty_s3
    faulty.faults = 2
    storage.write({join(s3, "x"): b"whole"})
    assert faulty.faults == 0
    assert Storage().read_one(join(s3, "x")) == b"whole"


def test_what_was_put_within_the_same_instant_is_not_replaced(s3: str, s3_server: str) -> None:
    asked_for = forward(s3_server)
    url = join(s3, "x")

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        if request.command == "PUT":
            Storage().write({url: b"theirs"})
        return asked_for(request, body)

    Storage().write({url: b"seen"})
    with serving(answer) as server:
        assert not Storage({"endpoint_url": server.url}).replace(url, b"seen", b"ours")
        assert len(server.asked) == 4  # once more for what lies there now
    assert Storage().read_one(url) == b"theirs"


@pytest.mark.parametrize(
    ("status", "code"),
    [(501, "NotImplemented"), (400, "InvalidArgument"), (412, "PreconditionFailed")],
)
def test_a_server_that_knows_no_conditions_replaces_all_the_same(
    s3: str, s3_server: str, status: int, code: str
) -> None:
    asked_for = forward(s3_server)

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        if request.headers["If-Match"]:
            return status, {}, f"<Error><Code>{code}</Code></Error>".encode()
        return asked_for(request, body)

    url = join(s3, "x")
    Storage().write({url: b"seen"})
    with serving(answer) as server:
        assert Storage({"endpoint_url": server.url}).replace(url, b"seen", b"ours")
    assert Storage().read_one(url) == b"ours"


def test_a_server_that_knows_no_conditions_creates_what_is_not_there(
    s3: str, s3_server: str
) -> None:
    asked_for = forward(s3_server)

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        if request.headers["If-None-Match"]:
            return 501, {}, b"<Error><Code>NotImplemented</Code></Error>"
        return asked_for(request, body)

    url = join(s3, "x")
    with serving(answer) as server:
        storage = Storage({"endpoint_url": server.url})
        assert storage.create(url, b"first")
        assert not storage.create(url, b"second")
    assert Storage().read_one(url) == b"first"


def test_a_server_that_wants_etags_without_quotes_replaces_on_condition(
    s3: str, s3_server: str
) -> None:
    asked_for = forward(s3_server)
    conditions: list[str | None] = []

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        if request.command == "PUT":
            conditions.append(request.headers["If-Match"])
            if '"' in (conditions[-1] or ""):
                return 412, {}, b"<Error><Code>PreconditionFailed</Code></Error>"
        return asked_for(request, body)

    url = join(s3, "x")
    Storage().write({url: b"seen"})
    with serving(answer) as server:
        assert Storage({"endpoint_url": server.url}).replace(url, b"seen", b"ours")
    assert conditions[-1]
    assert Storage().read_one(url) == b"ours"


def test_replacing_on_s3_survives_faults(faulty_s3: tuple[Faulty, Storage], s3: str) -> None:
    faulty, storage = faulty_s3
    Storage().write({join(s3, "x"): b"seen"})
    faulty.faults = 2
    assert storage.replace(join(s3, "x"), b"seen", b"ours")
    assert faulty.faults == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda storage, url: storage.write({url: b"x"}),
        lambda storage, url: storage.read([Source(url)]),
    ],
    ids=["write", "read"],
)
def test_a_bucket_that_hangs_is_not_asked_as_often_as_one_that_fails(
    s3: str,
    quick_retries: None,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[Storage, str], object],
) -> None:
    ended = threading.Event()

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        ended.wait(30)
        return 503, {}, b""

    monkeypatch.setattr("pipeline.storage.s3.READ_TIMEOUT", 0.5)
    monkeypatch.setattr(retry, "LONG_ENOUGH", 1.0)
    with serving(answer) as server:
        storage = Storage({"endpoint_url": server.url})
        with pytest.raises(SystemFault, match=r"timeout on endpoint"):
            call(storage, join(s3, "x"))
        ended.set()
        assert len([line for line in server.asked if "/x" in line]) <= 3


def test_writing_to_s3_gives_up_as_a_fault_of_the_system(
    faulty_s3: tuple[Faulty, Storage], s3: str
) -> None:
    faulty, storage = faulty_s3
    faulty.faults = 9999
    with pytest.raises(SystemFault, match="cannot write s3://photos/x"):
        storage.write({join(s3, "x"): b"whole"})
    assert len(faulty.asked) >= retry.ATTEMPTS


def test_only_what_was_not_put_is_put_again(faulty_s3: tuple[Faulty, Storage], s3: str) -> None:
    faulty, storage = faulty_s3
    faulty.faults = 3
    storage.write({join(s3, str(number)): b"whole" for number in range(20)})
    assert len(Storage().names(s3)) == 20
    assert len(faulty.asked) == 23


def test_an_object_that_fails_where_others_do_not_costs_its_row(
    s3: str, s3_server: str, quick_retries: None
) -> None:
    Storage().write({join(s3, name): b"whole" for name in ("x", "broken")})
    asked_for = forward(s3_server)

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        return (500, {}, b"") if "broken" in request.path else asked_for(request, body)

    with serving(answer) as server:
        storage = Storage({"endpoint_url": server.url})
        broken, whole = storage.read([Source(join(s3, name)) for name in ("broken", "x")])
    assert whole == b"whole"
    assert isinstance(broken, RowError)
    assert broken.error_class == "storage"


def test_a_bucket_that_was_away_until_a_moment_ago_costs_no_row(
    s3: str, s3_server: str, quick_retries: None
) -> None:
    Storage().write({join(s3, "x"): b"whole"})
    asked_for = forward(s3_server)
    back = False

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        nonlocal back
        back = back or "list-type" in request.path
        return asked_for(request, body) if back else (503, {}, b"")

    with serving(answer) as server:
        storage = Storage({"endpoint_url": server.url})
        assert storage.read([Source(join(s3, "x"))]) == [b"whole"]


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (
            lambda storage, url: storage.read([Source(join(url, "x"))]),
            "s3://photos does not answer",
        ),
        (lambda storage, url: list(files_below(storage, url)), "cannot list s3://"),
    ],
    ids=["read", "list"],
)
def test_a_bucket_that_does_not_answer_is_a_fault_of_the_system(
    faulty_s3: tuple[Faulty, Storage], s3: str, ask: Callable[[Storage, str], object], said: str
) -> None:
    faulty, storage = faulty_s3
    faulty.faults = 9999
    with pytest.raises(SystemFault, match=said):
        ask(storage, s3)


@pytest.mark.parametrize("bucket", ["Not A Bucket!", "id:hunter2@photos"])
def test_a_bucket_that_cannot_be_is_a_bad_row_and_no_outage(s3: str, bucket: str) -> None:
    Storage().write({f"{s3}/b": b"two"})
    start = time.monotonic()
    wrong, got = Storage().read([Source(f"s3://{bucket}/a"), Source(f"{s3}/b")])
    assert time.monotonic() - start < 5
    assert got == b"two"
    assert isinstance(wrong, RowError)
    assert (wrong.error_class, wrong.message) == ("input", "there can be no such bucket")


def test_who_has_waited_in_vain_does_not_wait_again_until_somebody_answered(
    faulty_s3: tuple[Faulty, Storage], s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "PATIENCE", 3.0)
    faulty, storage = faulty_s3
    place = f"{s3}/place"

    def waited(call: Callable[[], object]) -> float:
        start = time.monotonic()
        with pytest.raises(SystemFault):
            call()
        return time.monotonic() - start

    for _ in range(2):
        faulty.away_until = math.inf
        assert waited(lambda: storage.write({place: b"x"})) > 3
        for call in (lambda: storage.read_one(place), lambda: storage.read([Source(place)])):
            assert waited(call) < 2
        faulty.away_until = 0.0
        storage.write({place: b"x"})


def test_a_bucket_that_is_away_for_a_while_is_waited_for(
    faulty_s3: tuple[Faulty, Storage], s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "PATIENCE", 30.0)
    faulty, storage = faulty_s3
    Storage().write({join(s3, "x"): b"whole"})
    faulty.away_until = time.monotonic() + 1.5
    assert storage.read([Source(join(s3, "x"))]) == [b"whole"]
    faulty.away_until = time.monotonic() + 1.5
    storage.write({join(s3, "y"): b"whole"})
    assert sorted(Storage().names(s3)) == ["x", "y"]
    assert faulty.failed["away"] > 2


def test_storage_that_fails_in_all_ways_gives_and_takes_everything(
    faulty_s3: tuple[Faulty, Storage], s3: str
) -> None:
    faulty, storage = faulty_s3
    faulty.share, faulty.delay = 0.2, 0.1
    files = {join(s3, str(number)): bytes([number]) * 50_000 for number in range(100)}
    storage.write(files)
    assert storage.read([Source(url) for url in files]) == list(files.values())
    assert set(faulty.failed) == set(WAYS)


def test_credentials_that_expired_are_looked_for_again(
    s3: str, s3_server: str, quick_retries: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expired = b"<Error><Code>ExpiredToken</Code><Message>It has expired.</Message></Error>"
    keys = tmp_path / "credentials"
    asked_for = forward(s3_server)

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        if "=OLD/" not in request.headers["Authorization"]:
            return asked_for(request, body)
        keys.write_text("[default]\naws_access_key_id = NEW\naws_secret_access_key = new\n")
        return 400, {}, expired

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    for call in ("write", "read"):
        keys.write_text("[default]\naws_access_key_id = OLD\naws_secret_access_key = old\n")
        with serving(answer) as server:
            storage = Storage({"endpoint_url": server.url})
            if call == "write":
                storage.write({join(s3, "x"): b"whole"})
            else:
                assert storage.read([Source(join(s3, "x"))]) == [b"whole"]
            assert len(server.asked) == 3  # by obstore, by s3fs, and with the new ones
            storage.write({join(s3, "x"): b"whole"})
            assert len(server.asked) == 4


def test_reading_from_s3_survives_faults(faulty_s3: tuple[Faulty, Storage], s3: str) -> None:
    faulty, storage = faulty_s3
    Storage().write({join(s3, "x"): b"whole"})
    faulty.faults = 2
    assert storage.read([Source(join(s3, "x"))]) == [b"whole"]
    faulty.faults = 2
    assert storage.read_one(join(s3, "x")) == b"whole"


def test_names_on_s3_survive_faults(faulty_s3: tuple[Faulty, Storage], s3: str) -> None:
    faulty, storage = faulty_s3
    Storage().write({join(s3, "metadata/x.parquet"): b"x"})
    faulty.faults = 2
    assert storage.names(join(s3, "metadata")) == ["x.parquet"]


def test_deleting_on_s3_survives_faults(faulty_s3: tuple[Faulty, Storage], s3: str) -> None:
    faulty, storage = faulty_s3
    Storage().write({join(s3, "x"): b"whole"})
    faulty.faults = 2
    storage.delete(join(s3, "x"))
    assert Storage().read_one(join(s3, "x")) is None


def test_check_survives_faults(faulty_s3: tuple[Faulty, Storage], s3: str) -> None:
    faulty, storage = faulty_s3
    faulty.faults = 2
    storage.check(s3)
    assert faulty.faults == 0
