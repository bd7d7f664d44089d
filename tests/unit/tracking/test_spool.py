from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.killing import kill_at_every_point
from v05ray.tracking.spool import Spool


def records(spool: Spool) -> list[int]:
    """Everything in the queue, looked at through small windows, without taking it out."""
    return [spooled.record["n"] for spooled in spool.peek(max_bytes=10_000_000)]


def test_first_in_first_out(tmp_path):
    spool = Spool(tmp_path / "q")
    for n in range(5):
        spool.append({"n": n})
    assert len(spool) == 5
    first = spool.peek(max_bytes=20)
    assert [spooled.record["n"] for spooled in first] == [0, 1]
    spool.acknowledge(first[-1].end)
    assert len(spool) == 3
    assert records(spool) == [2, 3, 4]
    assert records(Spool(tmp_path / "q")) == [2, 3, 4]  # and after a restart


def test_an_empty_queue_takes_no_room(tmp_path):
    spool = Spool(tmp_path / "q")
    spool.append({"n": 1})
    spool.acknowledge(spool.peek()[-1].end)
    assert (tmp_path / "q").stat().st_size == 0
    spool.append({"n": 2})
    assert records(Spool(tmp_path / "q")) == [2]


def test_a_record_larger_than_the_window_is_seen(tmp_path):
    spool = Spool(tmp_path / "q")
    spool.append({"n": 1, "text": "x" * 1000})
    spool.append({"n": 2, "text": "x" * 1000})
    assert [spooled.record["n"] for spooled in spool.peek(max_bytes=10)] == [1]


def test_half_a_line_was_never_recorded(tmp_path):
    Spool(tmp_path / "q").append({"n": 1})
    with (tmp_path / "q").open("a") as file:
        file.write('{"n": 2')
    spool = Spool(tmp_path / "q")
    spool.append({"n": 3})
    assert records(spool) == [1, 3]


def test_a_damaged_line_does_not_hold_up_the_next(tmp_path):
    (tmp_path / "q").write_bytes(b'{"n": 1}\n\x00\x00\r\x00\n[1]\n{"n": 2}\n')
    found = Spool(tmp_path / "q").peek()
    assert [spooled.record.get("kind") for spooled in found] == [None, "damaged", "damaged", None]
    assert found[-1].end == (tmp_path / "q").stat().st_size


def test_a_lost_note_of_what_was_sent_sends_again(tmp_path):
    spool = Spool(tmp_path / "q")
    for n in range(3):
        spool.append({"n": n})
    spool.acknowledge(spool.peek(max_bytes=10)[0].end)
    (tmp_path / "q.sent").write_text("9999")
    assert records(Spool(tmp_path / "q")) == [0, 1, 2]


@settings(max_examples=30)
@given(st.lists(st.integers(-1, 3), max_size=30))
def test_nothing_is_lost_repeated_or_reordered(tmp_path_factory, moves):
    """Law: sent + pending is what was appended, in order. A move is: -1 reopen, 0 append, n acknowledge n."""
    path = tmp_path_factory.mktemp("spool") / "q"
    spool, appended, sent = Spool(path), 0, []
    for move in moves:
        if move == -1:
            spool = Spool(path)
        elif move == 0:
            spool.append({"n": appended})
            appended += 1
        elif batch := spool.peek()[:move]:
            sent += [spooled.record["n"] for spooled in batch]
            spool.acknowledge(batch[-1].end)
        assert len(spool) == appended - len(sent)
    assert sent + records(spool) == list(range(appended))


def prepare_three(folder: Path) -> None:
    spool = Spool(folder / "q")
    for n in range(3):
        spool.append({"n": n})


def send_all(folder: Path) -> None:
    spool = Spool(folder / "q")
    for _ in range(3):
        batch = spool.peek()[:1]
        with (folder / "sent").open("a") as file:
            file.write(f"{batch[0].record['n']}\n")
        spool.acknowledge(batch[0].end)


def test_killed_at_any_point_nothing_is_lost(tmp_path):
    for folder in kill_at_every_point(f"{__name__}:prepare_three", f"{__name__}:send_all", tmp_path):
        spool = Spool(folder / "q")
        pending = records(spool)
        sent = [int(line) for line in (folder / "sent").read_text().split()] if (folder / "sent").exists() else []
        assert sorted({*sent, *pending}) == [0, 1, 2]
        assert sent == sorted(set(sent))
