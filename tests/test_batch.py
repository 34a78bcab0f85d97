"""Batches: what a list may say, what is refused before work starts, what is skipped, what errors and deaths become."""

import itertools
import json
import os
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
import torch

from personalive.animate.job import Progress
from personalive.animate.places import check_paths
from personalive.batch import making
from personalive.batch.checking import check_rows
from personalive.batch.job import Job, Result
from personalive.batch.making import Maker
from personalive.batch.options import BatchOptions
from personalive.batch.places import open_place
from personalive.batch.pool import Pool, WorkersError
from personalive.batch.records import Record
from personalive.batch.results import Results
from personalive.batch.rows import folder_rows, read_rows
from personalive.batch.run import Tally
from personalive.cli import main as cli
from personalive.cli.batch_progress import show_lines, summary
from personalive.errors import InputError, OutputError
from personalive.loading import ModelChoice
from personalive.media.encoding import FRAMES_NAME
from personalive.media.part_file import PartFile
from personalive.processes import Seat, seats
from personalive.settings import AnimateOptions
from personalive.testing.pictures import moving_face, save_video
from personalive.testing.quick_jobs import QuickPreparation, attempts

QUICK = {"face_boxes": "keypoints", "crop": "center", "max_frames": 4}


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """A folder with files that are there, which is all that is looked at before work starts."""
    for name in ("me.png", "you.png", "talk.mp4", "nod.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def checked(path, **defaults):
    return check_rows(read_rows(path), path.parent, AnimateOptions(**defaults), "demo")


def write(path, text):
    path.write_text(text)
    return path


def test_a_table_and_lines_of_json_say_the_same(inputs):
    table = write(
        inputs / "jobs.csv",
        "\ufeffreference;driver;output;seed;smooth;paste_back;no_audio;keep;start;save_motion\r\n"
        "me.png;talk.mp4;out/a.mp4;7;0.5;TRUE;1;yaw,pitch;1:15;a.motion\r\n\r\n"
        f"{inputs}/you.png;nod.mp4;out/b.webm;;;;;;;\r\n",
    )
    first = {"reference": "me.png", "driver": "talk.mp4", "output": "out/a.mp4", "seed": 7, "smooth": 0.5}
    first |= {"paste_back": True, "audio": False, "keep": ["yaw", "pitch"], "start": 75, "save_motion": "a.motion"}
    second = {"ref_image": "you.png", "driving_video": f"file://{inputs}/nod.mp4", "output": "out/b.webm", "seed": None}
    lines = write(inputs / "jobs.jsonl", f"{json.dumps(first)}\n\n{json.dumps(second)}")
    for path in (table, lines):
        jobs = checked(path, quality=30)
        assert not jobs.refused
        one, other = jobs.jobs
        assert (one.reference, one.output) == (str(inputs / "me.png"), str(inputs / "out" / "a.mp4"))
        assert one.options == AnimateOptions(
            seed=7,
            smooth=0.5,
            paste_back=True,
            audio=False,
            keep=("pitch", "yaw"),
            start=75.0,
            save_motion=inputs / "a.motion",
            quality=30,
        )
        assert (other.driver, other.options) == (str(inputs / "nod.mp4"), AnimateOptions(quality=30))


USUAL = {"reference": "me.png", "driver": "talk.mp4", "output": "a.mp4"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sede": 7}, "there is no column 'sede': did you mean seed?"),
        ({"device": "cpu"}, "there is no column 'device'"),
        ({"seed": -1}, "seed is -1: it must be a whole number from 0"),
        ({"seed": "7"}, "seed is '7': it must be"),
        ({"audio": False, "no_audio": True}, "audio is there twice"),
        ({"reference": ""}, "reference is missing"),
        ({"driver": None}, "driver is missing"),
        ({"reference": 7}, "reference is 7: it must be a path or an address"),
        ({"reference": "no.png"}, "no.png does not exist"),
        ({"output": "a.txt"}, "a.txt"),
        ({"output": "a.gif", "codec": "h264"}, "codec is h264"),
        ({"output": "me.png"}, "me.png"),
        ({"output": "there.mp4"}, "there.mp4 already exists"),
        ({"output": "there.mp4/a.mp4"}, "is not a writable folder"),
        ({"output": "nowhere://x/a.mp4"}, "nowhere"),
        ({"output": "memory://x/a.mp4", "resume": True}, "resume is True: it needs an output in a folder"),
        ({"output": "memory://x/%05d.png"}, "numbered pictures need a folder"),
        ({"paste_back": True, "side_by_side": True}, "side_by_side is True"),
    ],
)
def test_a_row_that_cannot_be_made_is_refused_by_name_before_anything_begins(inputs, changed, said):
    (inputs / "there.mp4").write_bytes(b"precious")
    other = {**USUAL, "output": "other.mp4"}
    path = write(inputs / "jobs.jsonl", f"{json.dumps(other)}\n{json.dumps({**USUAL, **changed})}\n")
    found = checked(path)
    (refused,) = found.refused
    assert refused.row == 2 and said in refused.error
    with pytest.raises(InputError, match=r"nothing was begun; --continue makes the others:\n.*jobs.jsonl, row 2: "):
        found.refuse(path)
    assert [job.row for job in found.jobs] == [1]
    assert (inputs / "there.mp4").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("jobs.jsonl", "[1]\n", "row 1: must be an object"),
        ("jobs.jsonl", "{\n", "row 1: cannot be read as JSON"),
        ("jobs.jsonl", '{"seed": 1, "seed": 2}\n', "'seed' is there more than once"),
        ("jobs.csv", "reference,driver,output\na.png,b.mp4,c.mp4,7\n", "row 2: has 4 cells, but there are 3 columns"),
        ("jobs.csv", "reference,driver,output,seed\na.png,b.mp4,c.mp4,many\n", "row 2: seed is 'many'"),
        ("jobs.csv", "reference,seed,seed\n", "two columns 'seed'"),
        ("jobs.csv", "reference,driver,output,sede\na.png,b.mp4,c.mp4,1\n", "row 2: there is no column 'sede'"),
        ("jobs.txt", "", "must be a .jsonl or .csv file"),
        ("jobs.jsonl", "", "there are no jobs in .*jobs.jsonl: give reference, driver and output"),
        ("jobs.jsonl", "\n\n", "there are no jobs in"),
        ("jobs.csv", "", "there are no jobs in"),
        ("jobs.csv", "\n", "there are no jobs in"),
        ("jobs.csv", "reference,driver,output\n", "there are no jobs in"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused(tmp_path, name, text, said):
    path = write(tmp_path / name, text)
    with pytest.raises(InputError, match=f"(?s){said}"):
        checked(path).refuse(path)


def test_pipes_and_devices_are_no_lists_and_hold_no_results(tmp_path):
    for name in ("jobs.csv", "results.jsonl"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=r"jobs\.csv are not in a file"):
        list(read_rows(tmp_path / "jobs.csv"))
    with pytest.raises(InputError, match="are not a file"), Results(tmp_path / "results.jsonl") as results:
        results.begin([], set())
    assert (tmp_path / "results.jsonl").is_fifo()


def test_rows_that_would_write_to_each_others_files_are_refused(inputs):
    rows = [
        USUAL,
        {**USUAL, "output": "./a.mp4"},
        {**USUAL, "output": "talk.mp4", "driver": "nod.mp4", "overwrite": True},
        {**USUAL, "output": "c.mp4", "save_motion": "x.motion"},
        {**USUAL, "output": "d.mp4", "save_motion": "x.motion"},
        {**USUAL, "output": "frames/%05d.png"},
        {**USUAL, "output": "frames/../frames/%05d.png"},
    ]
    path = write(inputs / "jobs.jsonl", "\n".join(map(json.dumps, rows)))
    refused = {each.row: each.error for each in checked(path).refused}
    assert refused.keys() == {2, 3, 5, 7}
    assert "is written by row 1 as well" in refused[2] and "is an input of row 1" in refused[3]


def test_every_portrait_meets_every_driver(tmp_path, caplog):
    for name in ("portraits/anna.png", "portraits/bo.png", "portraits/bo.jpg", "portraits/.hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("drivers/talk.mp4", "drivers/nod.motion", "drivers/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    rows = list(folder_rows(tmp_path / "portraits", tmp_path / "drivers", Path("out"), "webm"))
    outputs = {row.values["output"] for row in rows}
    names = itertools.product(("anna", "bo.png", "bo.jpg"), ("talk", "nod"))
    assert outputs == {f"out/{face}/{motion}.webm" for face, motion in names}
    assert "notes.txt is left out" in caplog.text and ".hidden" not in caplog.text
    with pytest.raises(InputError, match="there is no folder"):
        list(folder_rows(tmp_path / "faces", tmp_path / "drivers", Path("out"), "mp4"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give the jobs"),
        ({"portraits": "a"}, "it needs drivers as well"),
        ({"portraits": "a", "drivers": "b"}, "output is missing"),
        ({"jobs": "a.csv", "portraits": "a", "drivers": "b"}, "and not both"),
        ({"jobs": "a.csv", "output": "b"}, "output is b: it must be left out"),
        ({"jobs": "a.csv", "output_format": "gif"}, "output_format is gif: it must be left out"),
        ({"jobs": "a.csv", "workers": 0}, "workers is 0"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        BatchOptions(**options)


# One job after the other.


@pytest.fixture(scope="module")
def files(tmp_path_factory, portrait):
    folder = tmp_path_factory.mktemp("files")
    (folder / "me.png").write_bytes(portrait.read_bytes())
    save_video(folder / "talk.mp4", moving_face(4), sound=True)
    return folder


def quick_animate(model, reference, driver, output, options, *, cache):
    """Writes what depends on the inputs, as carefully as the real one."""
    check_paths(reference, driver, output, options)

    def work():
        yield Progress("animating", 2, 4, message="a remark")
        if output.name == FRAMES_NAME:
            output.parent.mkdir(exist_ok=True)
            for number in range(4):
                (output.parent / f"{number:05d}.png").write_bytes(b"picture")
        else:
            part = PartFile(output)
            part.path.write_bytes(driver.read_bytes() + str(options.seed).encode())
            part.keep(output)
        yield Progress("done", 4, 4)

    return work()


@pytest.fixture
def make(monkeypatch):
    """Makes a job, as a run of a batch does, but without a model."""
    monkeypatch.setattr(making, "animate", quick_animate)

    def run(job, name="first", retries=1):
        model = SimpleNamespace(device=torch.device("cpu"))
        return Maker(model, retries, name)(job, lambda done, total: None)

    return run


def job_for(files, output, row=1, **options):
    settings = AnimateOptions(**{**QUICK, **options})
    return Job(row, str(files / "me.png"), str(files / "talk.mp4"), str(output), settings, "small")


def identity(path):
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def test_a_result_is_made_once(files, make, tmp_path):
    output = tmp_path / "out" / "a.mp4"
    first = make(job_for(files, output))
    assert (first.status, first.frames, first.is_old, first.attempts) == ("done", 4, False, 1)
    made = identity(output)
    again = make(job_for(files, output, row=5), "second")
    assert (again.status, again.frames, again.is_old, again.row) == ("done", 4, True, 5) and identity(output) == made
    refused = make(job_for(files, output, seed=7), "second")
    assert refused.status == "failed" and "was made with other options" in refused.error and identity(output) == made
    other = make(job_for(files, output, seed=7, overwrite=True), "second")
    assert other.status == "done" and not other.is_old and identity(output) != made
    output.unlink()
    assert not make(job_for(files, output, seed=7), "third").is_old and output.exists()
    output.write_bytes(b"my own")
    assert "already exists" in make(job_for(files, output, seed=7), "fourth").error
    assert output.read_bytes() == b"my own"


@pytest.mark.parametrize("name", ["a.mp4", "frames/%05d.png"])
def test_what_was_stopped_at_any_moment_is_made_again_whole(files, make, tmp_path, name):
    """The moments: before the result has its name; after it, but before that is noted."""
    output, job = tmp_path / name, job_for(files, tmp_path / name)
    place = open_place(str(output))
    make(job)
    done = Record.read(place)
    assert done is not None and done.state == "done"
    begun = Record("begun", done.key, "killed", 1)
    begun.write(place)
    result = make(job, "second")
    assert (result.status, result.is_old, result.attempts) == ("done", False, 1)
    assert not list(output.parent.glob("*.part-*")) and Record.read(place).state == "done"
    begun.write(place)
    changed = make(job_for(files, output, seed=8), "third")
    assert changed.status == "failed" and "with other options" in changed.error


def test_a_place_that_somebody_took_meanwhile_stays_theirs(files, small_model, tmp_path, monkeypatch):
    output, real = tmp_path / "a.mp4", making.animate

    def slow(*arguments, **named):
        for progress in real(*arguments, **named):
            if progress.frames_done:
                output.write_bytes(b"theirs")
            yield progress

    monkeypatch.setattr(making, "animate", slow)
    failed = Maker(small_model, 1, "first")(job_for(files, output), lambda done, total: None)
    assert failed.status == "failed" and "already exists" in failed.error
    assert output.read_bytes() == b"theirs"


def test_errors_that_may_pass_are_tried_again(files, make, tmp_path, monkeypatch, caplog):
    real, calls = making.animate, itertools.count(1)

    def flaky(*arguments, **named):
        if next(calls) < 3:
            raise RuntimeError("cuBLAS is out of sorts")
        yield from real(*arguments, **named)

    monkeypatch.setattr(making, "animate", flaky)
    job = job_for(files, tmp_path / "a.mp4")
    failed = make(job, retries=1)
    assert (failed.status, failed.error, failed.attempts) == ("failed", "RuntimeError: cuBLAS is out of sorts", 2)
    assert not list(tmp_path.iterdir()), "nothing is left"
    assert make(job, retries=1).attempts == 1


def test_errors_that_stay_are_not_tried_again(files, make, tmp_path):
    (tmp_path / "broken.png").touch()
    job = job_for(files, tmp_path / "a.mp4")
    broken = Job(1, str(tmp_path / "broken.png"), job.driver, job.output, job.options, job.model)
    failed = make(broken, retries=5)
    assert (failed.status, failed.attempts) == ("failed", 1) and "broken.png is empty" in failed.error
    assert not (tmp_path / "a.mp4").exists()


def test_a_job_whose_processes_die_comes_to_an_end_without_the_batch_counting(files, make, tmp_path):
    """As on a cluster, which starts processes again by itself."""
    job = job_for(files, tmp_path / "a.mp4")
    make(job)
    place = open_place(job.output)
    Record("begun", Record.read(place).key, "this", 2).write(place)
    failed = make(job, "this")
    assert (failed.status, failed.error) == ("failed", "its process died 2 times")
    assert make(job, "another").status == "done"


def test_files_may_be_in_a_store(files, make, tmp_path):
    store = fsspec.filesystem("memory")
    store.put_file(str(files / "talk.mp4"), "/in/talk.mp4")
    job = job_for(files, "memory://out/deep/a.mp4")
    job = Job(1, job.reference, "memory://in/talk.mp4", job.output, job.options, job.model)
    made, again = make(job), make(job, "second")
    assert made.status == "done" and not made.is_old and again.is_old, (made, again)
    make(job_for(files, tmp_path / "a.mp4"))
    assert store.cat_file("/out/deep/a.mp4") == (tmp_path / "a.mp4").read_bytes()
    assert sorted(store.find("/out")) == ["/out/deep/.personalive/a.mp4.json", "/out/deep/a.mp4"]
    missing = Job(1, job.reference, "memory://in/no.mp4", "memory://out/b.mp4", job.options, job.model)
    assert "memory://in/no.mp4" in make(missing).error


# The file of results.


def result(row, output, **values):
    return Result(row, "me.png", "talk.mp4", output, **{"status": "done", **values})


def rows_of(path):
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def test_results_hold_each_output_once(tmp_path):
    path = tmp_path / "results.jsonl"
    with Results(path) as results:
        results.begin([result(1, "a.mp4")], {"a.mp4", "b.mp4"})
        results.add(result(2, "b.mp4", status="failed", error="no face\u2028was found"))
    assert [row["status"] for row in rows_of(path)] == ["done", "failed"]
    with path.open("a") as file:
        file.write('{"row": 3, "output": "c.mp')  # as a kill may leave it
    with Results(path) as results:
        results.begin([], {"a.mp4", "c.mp4"})
        assert [row["output"] for row in rows_of(path)] == ["b.mp4"], "lines of other jobs stay"
        with pytest.raises(OutputError, match="another batch is writing"):
            Results(path)
    path.write_text("shopping list\n")
    with Results(path) as results, pytest.raises(InputError, match="something else than results"):
        results.begin([], set())
    assert path.read_text() == "shopping list\n"


# Processes.


def stand_in_jobs(references):
    options = AnimateOptions()
    return [Job(row, name, "talk.mp4", f"{row}.mp4", options, "") for row, name in enumerate(references, 1)]


def pool(tmp_path, workers=2, retries=1):
    return Pool([Seat()] * workers, QuickPreparation(tmp_path), tmp_path / "lock", retries)


def test_processes_share_the_jobs_and_one_that_dies_is_replaced(tmp_path):
    jobs = stand_in_jobs(["", "dies once", "", "fails", "dies", "", ""])
    updates = list(pool(tmp_path).run(jobs))
    results = {each.result.row: each.result for each in updates if each.result}
    assert len(results) == len([each for each in updates if each.result]) == len(jobs)
    assert {row for row, each in results.items() if each.status == "failed"} == {4, 5}
    assert results[5].error == "its process was killed by SIGKILL, 2 times in all"
    assert [len(attempts(tmp_path, job)) for job in jobs] == [1, 2, 1, 1, 2, 1, 1]
    assert sum(each.frames for each in updates) == 8 * 5
    assert [each.message for each in updates if "row 2" in each.message] == [
        "row 2: its process was killed by SIGKILL; it is made again in another one"
    ]


def test_processes_that_cannot_work_end_the_batch(tmp_path):
    (tmp_path / "refuse").touch()
    with pytest.raises(InputError, match="there are no weights here"):
        list(pool(tmp_path).run(stand_in_jobs([""])))
    (tmp_path / "refuse").unlink()
    (tmp_path / "dead").touch()
    with pytest.raises(WorkersError, match="the last one ended with status 7"):
        list(pool(tmp_path, workers=1).run(stand_in_jobs([""])))


def test_gpus_get_a_process_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [seat.gpu for seat in seats(ModelChoice(), None)] == ["0", "1", "2"]
    assert [seat.gpu for seat in seats(ModelChoice(), 4)] == ["0", "1", "2", "0"]
    assert [seat.gpu for seat in seats(ModelChoice(device="cuda:1"), None)] == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b,5")
    assert [seat.gpu for seat in seats(ModelChoice(device="cuda"), None)] == ["GPU-a", "GPU-b", "5"]
    with pytest.raises(InputError, match="there are 3 GPUs, cuda:0 to cuda:2"):
        seats(ModelChoice(device="cuda:3"), None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert [(seat.gpu, seat.threads) for seat in seats(ModelChoice(device="cpu"), 4)] == [(None, 2)] * 4
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert seats(ModelChoice(), None) == [Seat()]
    with pytest.raises(InputError, match="PyTorch finds no GPU"):
        seats(ModelChoice(device="cuda"), None)


# The command.


def test_the_command_refuses_before_it_starts_a_process(inputs, caplog, monkeypatch):
    monkeypatch.setattr(Pool, "run", lambda *_: pytest.fail("work was begun"))
    path = write(inputs / "jobs.jsonl", json.dumps({**USUAL, "sede": 1}))
    assert cli.main(["batch", str(path)]) == 1
    assert "row 1: there is no column 'sede': did you mean seed?" in caplog.text
    assert {path.name for path in inputs.iterdir()} == {"jobs.jsonl", "me.png", "you.png", "talk.mp4", "nod.mp4"}


def test_continuing_makes_refused_rows_results(inputs, caplog, monkeypatch, capsys):
    monkeypatch.setattr(Pool, "run", lambda self, jobs: (update for update in ()))
    rows = f"{json.dumps(USUAL)}\n{json.dumps({**USUAL, 'sede': 1})}"
    path = write(inputs / "jobs.jsonl", rows)
    assert cli.main(["batch", str(path), "--continue"]) == cli.SOME_FAILED
    (row,) = rows_of(inputs / "results.jsonl")
    assert row["row"] == 2 and row["status"] == "failed" and "sede" in row["error"]
    assert capsys.readouterr().out == f"{inputs / 'results.jsonl'}\n"


def test_progress_in_lines():
    times = iter([0.0, 0.0, 0.0, 6.0, 6.0, 7.0])

    def work():
        tally = Tally(3)
        yield tally
        tally.frames += 12
        tally.count(result(1, "a.mp4"))
        yield tally
        tally.count(result(2, "b.mp4", status="failed", error="no face"))
        tally.count(result(3, "c.mp4", is_old=True))
        yield tally

    said = []
    last = show_lines(work(), said.append, lambda: next(times))
    assert said == [
        "0 of 3 jobs",
        "1 of 3 jobs; 2.0 frames a second, 12 s left",
        "row 2, b.mp4: no face",
    ]
    assert summary(last, 8.0, Path("results.jsonl")) == (
        "done: 1 made, 1 there before, 1 failed, in 8 s (12 frames, 1.5 a second); results.jsonl says why"
    )
