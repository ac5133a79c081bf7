import pytest
from builders import living_owner, run_record, run_spec

from model.config import Execution
from sweeper.errors import SweeperError
from sweeper.logs import find_logs, follow, read_log
from sweeper.records import JobFile, Seat, SweepFolder, write_job, write_json, write_record

SPEC = run_spec()
RUN = SPEC.run_id


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path, "tiny")


def attempt(folder, number=1, **files):
    home = folder.attempt(RUN, number)
    write_json(home / "owner.json", {"owner": living_owner(), "seat": Seat(job="j")})
    for name, text in files.items():
        (home / name.replace("_", ".")).write_text(text)
    return home


def texts(found):
    return [read_log(log)[0] for log in found]


def test_the_log_of_the_last_attempt_is_found(folder):
    attempt(folder, 1, log="one")
    attempt(folder, 2, log="two")
    assert texts(find_logs(folder, RUN)) == ["two"]
    assert texts(find_logs(folder, RUN, attempt=1)) == ["one"]


def test_what_a_command_printed_comes_before_our_log_of_it(folder):
    attempt(folder, log="ours", output_log="theirs")
    assert texts(find_logs(folder, RUN)) == ["theirs", "ours"]


def test_each_rank_has_a_log(folder):
    attempt(folder, log="zero", log_1="one")
    assert texts(find_logs(folder, RUN, rank=1)) == ["one"]
    with pytest.raises(SweeperError, match="has no rank 2"):
        find_logs(folder, RUN, rank=2)


def test_an_attempt_that_was_never_made_is_refused(folder):
    attempt(folder, log="one")
    with pytest.raises(SweeperError, match="has no attempt 3; it made 1"):
        find_logs(folder, RUN, attempt=3)


def test_before_there_is_an_attempt_the_jobs_output_is_shown(folder):
    job = JobFile(job="j", tasks=(("other",), (RUN,)), code="c", processes=1, heartbeat_s=1, execution=Execution())
    path = write_job(folder, job)
    assert find_logs(folder, RUN) == ()
    (path / "7_0.out").write_text("another element")
    (path / "7_1.out").write_text("the supervisor")
    assert texts(find_logs(folder, RUN)) == ["the supervisor"]
    (path / "output").mkdir()
    (path / "output" / f"{RUN}-1-0-0.out").write_text("its processes")
    assert texts(find_logs(folder, RUN)) == ["its processes"]


def test_following_goes_from_one_attempt_to_the_next_and_ends_with_the_run(folder):
    home = attempt(folder, 1, log="a\n")
    said = []
    for text in follow(folder, RUN, over=lambda: False, poll_s=0.01):
        said.append(text)
        if text == "a\n":
            with (home / "log").open("a") as file:
                file.write("b\n")
        elif text == "b\n":
            attempt(folder, 2, log="c\n")
        elif text == "c\n":
            write_record(folder, run_record(SPEC))
    assert [text for text in said if not text.startswith("==>")] == ["a\n", "b\n", "c\n"]
    assert sum(text.startswith("==>") for text in said) == 2


def test_following_ends_when_nobody_works_on_the_run(folder):
    attempt(folder, 1, log="a\n")
    assert list(follow(folder, RUN, over=lambda: True, poll_s=0.01))[-1] == "a\n"
