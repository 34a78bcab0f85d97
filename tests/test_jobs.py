"""The queue of `serve-jobs`, over HTTP, with processes that are only played: what needs Ray is in test_jobs_ray.py."""

import asyncio
import json
import threading
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalive.errors import InputError
from personalive.gateway.app import create_app
from personalive.gateway.deliveries import Deliveries
from personalive.gateway.openapi import describe, inputs_of, own_schema
from personalive.gateway.prediction import NotReadyError
from personalive.jobs import cluster
from personalive.jobs.cluster import Processes, Scale
from personalive.jobs.ended import Ended
from personalive.jobs.options import JobsOptions
from personalive.jobs.queue import JobQueue, LostError
from personalive.jobs.routes import routes
from personalive.jobs.spool import Spool
from personalive.jobs.work import Began, Failed, Line, Made
from tests.endpoint_support import BEYOND, receiver

ROOT = Path(__file__).parents[1]
INPUT = {"ref_image": "data:image/png;base64,AAAA", "driving_video": "https://example.com/a.mp4"}


class Played:
    """Processes, each of which does with a job what the test says."""

    def __init__(self, limit=1):
        self.status, self.running, self.limit = "READY", limit, limit
        self.seeds, self.stopped = [], []
        self.outcomes = {}
        """By seed: what becomes of its attempts, one after the other; `Made` where nothing is said."""
        self.go = asyncio.Event()
        """Lets jobs end."""

    async def run(self, inputs):
        seed = inputs["seed"]
        outcome = self.outcomes[seed].pop(0) if self.outcomes.get(seed) else Made("text/plain", b"hello")
        if outcome == "is not reached":
            raise LostError("gone")
        self.seeds.append(seed)
        yield Began()
        yield Line("animating")
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped.append(seed)
            raise
        if outcome == "dies":
            raise LostError("dead")
        yield outcome


class Served:
    """A queue with its interface."""

    def __init__(self, folder, makers, limit):
        self.makers, self.folder, self.drained = makers, folder, []
        self.deliveries = Deliveries(allow_private=True, limit=100)
        schema = own_schema()
        inputs = inputs_of(schema)
        self.queue = JobQueue(makers, self.deliveries, Spool(folder), inputs, limit, None)
        more = routes(self.queue, makers, lambda: self.drained.append(True))
        transport = httpx.ASGITransport(create_app(self.queue, describe(schema, queue=True), inputs, more))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://localhost")

    async def put(self, name, seed=0, *, wait=False, **fields):
        headers = {} if wait else {"Prefer": "respond-async"}
        body = {"input": {**INPUT, "seed": seed}, **fields}
        return await self.client.put(f"/predictions/{name}", json=body, headers=headers)

    async def state(self, name):
        return (await self.client.get(f"/predictions/{name}")).json()

    async def until(self, name, *statuses):
        while (state := await self.state(name))["status"] not in statuses:
            await asyncio.sleep(0.001)
        return state


@pytest.fixture
async def served(tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONALIVE_ALLOW_PRIVATE_URLS", "1")
    running = []

    @asynccontextmanager
    async def start(limit=10, **makers):
        running.append(Served(tmp_path, Played(**makers), limit))
        yield running[-1]

    yield start
    for each in running:
        await each.queue.close()
        await each.queue.wait_until_empty()
        await each.client.aclose()
        await each.deliveries.close(1.0)


async def test_jobs_are_made_in_order_and_each_knows_its_place(served):
    async with served() as it:
        answers = [await it.put(f"job{index}", index) for index in range(4)]
        assert {answer.status_code for answer in answers} == {202}
        assert [answer.json().get("queue_position") for answer in answers] == [None, 1, 2, 3]
        assert (await it.put("job3", 3)).json()["queue_position"] == 3, "and asking again begins no other"
        assert (await it.client.post("/predictions/job1/cancel")).status_code == 200
        assert (await it.state("job3"))["queue_position"] == 2
        it.makers.go.set()
        made = await it.until("job3", "succeeded")
        assert made["output"] == "data:text/plain;base64,aGVsbG8=" and "queue_position" not in made
        assert made["logs"] == "animating\n" and made["metrics"]["predict_time"] >= 0
        assert it.makers.seeds == [0, 2, 3]
        assert (await it.state("job1"))["status"] == "canceled"
        assert not list(it.folder.iterdir()), "inputs are kept no longer than needed"


async def test_beyond_the_bound_is_503_and_says_when_to_come_again(served):
    async with served(limit=2) as it:
        for index in range(3):
            assert (await it.put(f"job{index}")).status_code == 202
        assert (await it.client.get("/health-check")).json()["status"] == "BUSY"
        refused = await it.put("job3")
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        assert "2 jobs are waiting" in refused.json()["error"]
        assert (await it.put("job2")).status_code == 202, "it is there already"
        it.makers.go.set()
        await it.until("job2", "succeeded")
        assert (await it.put("job3", wait=True)).json()["status"] == "succeeded"


async def test_as_many_run_as_there_may_be_processes(served):
    async with served(limit=10) as it:
        it.makers.limit = 3
        for index in range(5):
            await it.put(f"job{index}", index)
        await it.until("job2", "processing")
        health = (await it.client.get("/health-check")).json()
        assert (health["running"], health["queued"]) == (3, 2)


@pytest.mark.parametrize(("attempts", "status"), [(["dies"], "succeeded"), (["dies", "dies"], "failed")])
async def test_a_job_whose_process_died_is_made_again_once(served, attempts, status):
    async with served() as it:
        it.makers.outcomes[7] = attempts.copy()
        it.makers.go.set()
        ended = (await it.put("job", 7, wait=True)).json()
        assert ended["status"] == status and "made again" in ended["logs"]
        assert it.makers.seeds == [7, 7]
        if status == "failed":
            assert "died 2 times" in ended["error"]
        assert (await it.put("next", 8, wait=True)).json()["status"] == "succeeded"
        figures = (await it.client.get("/metrics")).text
        assert "personalive_jobs_retried_total 1.0" in figures


@pytest.mark.parametrize(
    ("attempts", "error"),
    [
        (["is not reached", "is not reached"], "no process could be reached"),
        (["dies", "is not reached", "is not reached"], "no process could be reached"),
        (["dies", "is not reached", "dies"], "died 2 times"),
        (["is not reached", "dies", "dies"], "died 2 times"),
        (["is not reached", "dies"], None),
        (["is not reached"], None),
    ],
)
async def test_a_process_that_was_not_reached_has_not_died(served, attempts, error):
    async with served() as it:
        it.makers.outcomes[7] = attempts.copy()
        it.makers.go.set()
        ended = (await it.put("job", 7, wait=True)).json()
        assert ended["status"] == ("failed" if error else "succeeded")
        assert error is None or error in ended["error"]
        deaths = attempts.count("dies")
        assert ("made again" in ended["logs"]) == (deaths > 0) and "another is asked" in ended["logs"]
        assert len(it.makers.seeds) == deaths + (error is None)
        figures = (await it.client.get("/metrics")).text
        assert f"personalive_jobs_retried_total {min(deaths, 1)}.0" in figures


async def test_what_goes_wrong_in_one_job_is_its_own_failure(served):
    async with served() as it:
        it.makers.outcomes[1] = [Failed("no face was found in the reference")]
        it.makers.outcomes[2] = ["something that nobody expected"]
        it.makers.go.set()
        assert (await it.put("one", 1, wait=True)).json()["error"] == (
            "Prediction failed: no face was found in the reference"
        )
        assert (await it.put("three", 3, wait=True)).json()["status"] == "succeeded"


async def test_a_running_job_is_cancelled_and_the_next_begins(served):
    async with served() as it:
        await it.put("first", 1)
        await it.put("second", 2)
        await it.until("first", "processing")
        assert (await it.client.post("/predictions/first/cancel")).status_code == 200
        assert (await it.until("first", "canceled", "failed", "succeeded"))["status"] == "canceled"
        await it.until("second", "processing")
        assert it.makers.stopped == [1]
        assert (await it.client.post("/predictions/first/cancel")).status_code == 200, "it has just ended"
        assert (await it.client.post("/predictions/third/cancel")).status_code == 404


async def test_a_job_that_is_cancelled_before_its_task_has_begun_ends_too(served):
    async with served() as it:
        feed = it.queue._feed

        def feed_and_cancel():
            feed()
            for job in list(it.queue._making.values()):
                job.task.cancel()

        it.queue._feed = feed_and_cancel
        await it.put("first", 1)
        assert (await it.until("first", "canceled"))["completed_at"]
        it.queue._feed = feed
        it.makers.go.set()
        assert (await it.put("second", 2, wait=True)).json()["status"] == "succeeded" and it.makers.seeds == [2]


async def test_webhooks_of_all_who_wait_are_called(served):
    with receiver() as web:
        async with served(limit=60) as it:
            for index in range(50):
                answer = await it.put(f"job{index}", index, webhook=f"{web.url}/webhook")
                assert answer.status_code == 202
            it.makers.go.set()
            await it.queue.wait_until_empty()
            await it.deliveries.close(60.0)
        last = {}
        for event in web.events():
            last[event["id"]] = event["status"]
    assert last == dict.fromkeys((f"job{index}" for index in range(50)), "succeeded")


async def test_drained_it_takes_no_more_and_finishes_what_it_has_taken(served):
    async with served() as it:
        await it.put("one", 1)
        await it.put("two", 2)
        elsewhere = {"X-Forwarded-For": "192.0.2.1"}
        assert (await it.client.post("/admin/drain", headers=elsewhere)).status_code == 403
        assert not it.drained
        assert (await it.client.post("/admin/drain")).json()["draining"]
        assert it.drained
        refused = await it.put("three", 3)
        assert refused.status_code == 503 and refused.headers["retry-after"]
        it.makers.go.set()
        await it.queue.wait_until_empty()
        assert {(await it.state(name))["status"] for name in ("one", "two")} == {"succeeded"}


async def test_ended_at_once_it_cancels_what_it_has(served):
    async with served() as it:
        for index in range(3):
            await it.put(f"job{index}", index)
        await it.until("job0", "processing")
        await it.queue.close()
        await it.queue.wait_until_empty()
        assert {(await it.state(f"job{index}"))["status"] for index in range(3)} == {"canceled"}


async def test_what_cannot_be_made_is_refused_before_it_is_queued(served):
    together = ("codec", "h264"), ("output_format", "webm")
    files = [("ref_image", "/etc/passwd"), ("driving_video", "file:///etc/passwd"), ("ref_image", "http://a@b/")]
    async with served() as it:
        for name, value in [*BEYOND, *files, ("nonsense", 1)]:
            answer = await it.client.post("/predictions", json={"input": {**INPUT, name: value}})
            assert answer.status_code == 422 and name in answer.text, (name, value, answer.text[:200])
        assert (await it.client.post("/predictions", json={"input": {**INPUT, **dict(together)}})).status_code == 422
        for name in INPUT:
            rest = {each: value for each, value in INPUT.items() if each != name}
            answer = await it.client.post("/predictions", json={"input": rest})
            assert answer.status_code == 422 and name in answer.text
        assert (await it.client.post("/predictions", content=b"{}")).status_code == 415
        assert not it.makers.seeds and it.queue.waiting == 0


async def test_until_the_model_is_loaded_jobs_are_refused(served):
    async with served() as it:
        it.makers.status = "STARTING"
        assert (await it.client.get("/health-check")).json()["status"] == "STARTING"
        refused = await it.put("job")
        assert refused.status_code == 503 and refused.headers["retry-after"]


@pytest.mark.parametrize("dead", ["raises", "hangs"])
async def test_while_ray_is_dead_the_service_says_so_and_takes_no_jobs(served, monkeypatch, caplog, dead):
    """A call to a Ray that has died may raise an error, or never return."""
    alive, asked = threading.Event(), []

    def count_running():
        asked.append(dead)
        if not alive.is_set():
            if dead == "raises":
                raise ConnectionError("no such actor")
            alive.wait()
        return 2

    monkeypatch.setattr(cluster, "count_running", count_running)
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.01)
    processes = Processes(2)
    watching = asyncio.create_task(processes.watch())
    try:
        async with served() as it:
            it.queue._makers = processes

            async def health(status):
                while (found := (await it.client.get("/health-check")).json())["status"] != status:
                    await asyncio.sleep(0.001)
                return found

            while len(asked) < (5 if dead == "raises" else 1):
                await asyncio.sleep(0.001)
            assert processes.status == "STARTING", "Ray Serve may not have been started yet"
            processes.status, processes.running = "READY", 2
            assert (await health("DEFUNCT"))["replicas"] == 0
            refused = await it.put("job")
            assert refused.status_code == 503 and "Ray does not answer" in refused.json()["error"]
            if dead == "hangs":
                assert len(asked) == 1, "a question that is never answered keeps its thread"
            alive.set()
            assert (await health("READY"))["replicas"] == 2
    finally:
        alive.set()
        watching.cancel()
    why = {"raises": "no such actor", "hangs": "TimeoutError"}[dead]
    assert [record.message for record in caplog.records] == [
        f"Ray does not say how many processes there are: {why}",
        "Ray has not answered 3 times in a row: no jobs are taken until it does",
        "Ray answers again, and jobs are taken",
    ]


async def test_the_disk_is_bounded_too(tmp_path):
    spool = Spool(tmp_path, limit=100)
    await spool.put("one", {"text": "x" * 50})
    with pytest.raises(NotReadyError):
        await spool.put("two", {"text": "x" * 50})
    assert await spool.get("one") == {"text": "x" * 50}
    spool.drop("one")
    await spool.put("two", {"text": "x" * 50})
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=30))
def test_states_of_ended_jobs_are_remembered_within_bounds(added):
    """The latest of each id, and the latest of all."""
    ended, order = Ended(max_states=4, max_bytes=100), {}
    for number, (identifier, size) in enumerate(added):
        state = {"id": str(identifier), "output": "x" * size, "logs": "", "number": number}
        ended.add(state)
        order.pop(state["id"], None)
        order[state["id"]] = state
    kept = [state for state in order.values() if ended.find(state["id"]) == state]
    assert kept == list(order.values())[len(order) - len(kept) :]
    assert len(kept) <= 4 and sum(len(state["output"]) for state in kept) <= 100
    assert kept or not added


async def test_every_answer_is_described(served):
    async with served() as it:
        described = (await it.client.get("/openapi.json")).json()["paths"]
    assert "409" not in described["/predictions"]["post"]["responses"]
    assert set(described["/predictions/{prediction_id}"]) == {"get", "put"}


def test_the_schema_in_the_package_is_cogs():
    assert own_schema() == json.loads((ROOT / ".cog" / "openapi_schema.json").read_text()), (
        "run: python -m scripts.write_settings"
    )


def test_numbers_of_processes_are_checked():
    assert JobsOptions(replicas="auto").replicas is None
    assert JobsOptions(replicas="3", min_replicas=0).range_of(3) == (0, 3)
    with pytest.raises(InputError, match="min_replicas is 4"):
        JobsOptions(min_replicas=4).range_of(3)
    assert "autoscaling_config" not in Scale(2, 2, on_gpus=True).options()
    assert Scale(0, 2, on_gpus=True).options()["autoscaling_config"]["min_replicas"] == 0
