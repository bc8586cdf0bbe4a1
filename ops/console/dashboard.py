"""rq-dashboard's pages on our Redis connection, with views of ours where its own are faulty.

Its own blueprint opens a connection from a URL with each request, reads pickles, shows a page that grows with its
number, answers 500 for a job that is gone, changes things on GET, and deletes what was acknowledged.
"""

from typing import Any

import redis
import structlog
from flask import Blueprint, Response, abort, g, jsonify, render_template, request, url_for
from flask.blueprints import BlueprintSetupState
from rq import Queue, Worker
from rq.exceptions import NoSuchJobError
from rq.job import JOB_ID_PATTERN, Job
from rq.serializers import JSONSerializer
from rq.version import VERSION as RQ_VERSION
from rq.worker import BaseWorker
from rq_dashboard import web
from rq_dashboard.version import VERSION

from ops.console.faults import told
from ops.console.headers import csp_nonce
from ops.console.requeue import ENDED, REQUEUEABLE, Requeuer

#: What may stand in a URL as a registry; `queued` is the queue itself, `started` holds claims.
REGISTRIES = {"queued": "queue", "started": "wip", "failed": "failed", "deferred": "deferred"} | {
    "finished": "finished",
    "canceled": "canceled",
    "scheduled": "scheduled",
}
#: Jobs that one page may list, and pages that are linked around the present one.
MOST_PER_PAGE = 200
LINKED_PAGES = 10
GONE = "there is no such job any more: finished ones are forgotten after ten minutes, failed ones after thirty days"
WAITS = "this job still waits; what was acknowledged is not deleted"

log = structlog.get_logger()


def create_dashboard(connection: redis.Redis) -> Blueprint:
    """A blueprint named like rq-dashboard's, with its templates, files and URLs."""
    blueprint = Blueprint("rq_dashboard", web.__name__, template_folder="templates", static_folder="static")
    web.config.serializer = JSONSerializer  # type: ignore[assignment] # declared as what it is at first
    requeuer = Requeuer(connection)

    @blueprint.record_once
    def connect(state: BlueprintSetupState) -> None:
        state.app.redis_conn = connection  # type: ignore[attr-defined] # where rq-dashboard looks for it

    @blueprint.before_request
    def check_job_id() -> None:
        job_id = (request.view_args or {}).get("job_id")
        if job_id is not None and not JOB_ID_PATTERN.fullmatch(job_id):
            abort(404, GONE)

    @blueprint.errorhandler(NoSuchJobError)
    def gone(_error: NoSuchJobError) -> Response:
        return told(404, GONE)

    @blueprint.context_processor
    def tools() -> dict[str, Any]:
        return {"csp_nonce": csp_nonce, "poll_interval": 2500}

    _add_pages(blueprint, connection)
    _add_data(blueprint, connection)
    _add_actions(blueprint, connection, requeuer)
    return blueprint


def _add_pages(blueprint: Blueprint, connection: redis.Redis) -> None:
    @blueprint.get("/")
    @blueprint.get("/<int(max=0):instance_number>/view/queues")
    def queues_overview(instance_number: int = 0) -> str:
        return _page("queues", instance_number)

    @blueprint.get("/<int(max=0):instance_number>/view/workers")
    def workers_overview(instance_number: int) -> str:
        return _page("workers", instance_number)

    @blueprint.get("/<int(max=0):instance_number>/view/jobs")
    @blueprint.get(
        "/<int(max=0):instance_number>/view/jobs/<queue_name>/<registry_name>/<int:per_page>/<order>/<int:page>"
    )
    def jobs_overview(
        instance_number: int,
        queue_name: str | None = None,
        registry_name: str = "queued",
        per_page: int = 8,
        order: str = "asc",
        page: int = 1,
    ) -> str:
        _check_listing(registry_name, per_page, order, page)
        queues = sorted(Queue.all(connection, serializer=JSONSerializer), key=lambda queue: queue.name)
        name = queue_name or (queues[0].name if queues else "default")
        return _page(
            "jobs",
            instance_number,
            queues=queues,
            queue=Queue(name, connection=connection, serializer=JSONSerializer),
            registry_name=registry_name,
            per_page=per_page,
            order=order,
            page=page,
            enable_delete=registry_name in ENDED,
        )

    @blueprint.get("/<int(max=0):instance_number>/view/job/<job_id>")
    def job_view(instance_number: int, job_id: str) -> str:
        job = Job.fetch(job_id, connection, JSONSerializer)
        ended = REQUEUEABLE.get(job.get_status(refresh=False)) in ENDED
        return _page("job", instance_number, id=job.id, enable_delete=ended)


def _add_data(blueprint: Blueprint, connection: redis.Redis) -> None:
    blueprint.get("/<int(max=0):instance_number>/data/queues.json")(web.list_queues)
    blueprint.get("/<int(max=0):instance_number>/data/job/<job_id>.json")(web.job_info)

    @blueprint.get(
        "/<int(max=0):instance_number>/data/jobs/<queue_name>/<registry_name>/<int:per_page>/<order>/<int:page>.json"
    )
    def list_jobs(
        instance_number: int, queue_name: str, registry_name: str, per_page: int, order: str, page: int
    ) -> Response:
        _check_listing(registry_name, per_page, order, page)
        total, ids = _listed(connection, queue_name, registry_name, per_page, order, page)
        jobs = [job for job in Job.fetch_many(ids, connection, JSONSerializer) if job]
        place = {"instance_number": instance_number, "queue_name": queue_name, "registry_name": registry_name}
        pagination = _pagination(total, per_page, page, place | {"per_page": per_page, "order": order})
        return jsonify(
            name=queue_name,
            registry_name=registry_name,
            jobs=[_listed_job(job) for job in jobs],
            pagination=pagination,
        )

    @blueprint.get("/<int(max=0):instance_number>/data/workers.json")
    def list_workers(instance_number: int) -> Response:
        workers = [_worker(worker) for worker in Worker.all(connection, serializer=JSONSerializer)]
        return jsonify(workers=sorted(workers, key=lambda worker: (worker["state"], worker["queues"], worker["name"])))


def _add_actions(blueprint: Blueprint, connection: redis.Redis, requeuer: Requeuer) -> None:
    @blueprint.post("/job/<job_id>/requeue")
    def requeue_job_view(job_id: str) -> Response:
        job = Job.fetch(job_id, connection, JSONSerializer)
        registry = REQUEUEABLE.get(job.get_status(refresh=False))
        if registry is None or not requeuer.requeue(job.origin, registry, [job.id]):
            abort(409, "this job waits or runs already")
        return _done("requeued", job.origin, 1)

    @blueprint.post("/requeue/<queue_name>")
    def requeue_all(queue_name: str) -> Response:
        return _done("requeued", queue_name, requeuer.requeue_all(queue_name, "failed"))

    @blueprint.post("/job/<job_id>/delete")
    def delete_job_view(job_id: str) -> Response:
        job = Job.fetch(job_id, connection, JSONSerializer)
        registry = REQUEUEABLE.get(job.get_status(refresh=False), "")
        if registry not in ENDED or not requeuer.forget(job.origin, registry, [job.id]):
            abort(409, WAITS)
        return _done("deleted", job.origin, 1)

    @blueprint.post("/queue/<queue_name>/<registry_name>/empty")
    def empty_queue(queue_name: str, registry_name: str) -> Response:
        if registry_name not in ENDED:
            abort(409, WAITS)
        return _done("deleted", queue_name, requeuer.forget_all(queue_name, registry_name))

    @blueprint.post("/queue/<queue_name>/compact")
    def compact_queue(queue_name: str) -> Response:
        return _done("compacted", queue_name, requeuer.compact(queue_name))


def _page(name: str, instance_number: int, **more: Any) -> str:
    return render_template(
        f"rq_dashboard/{name}.html",
        active_tab=name,
        current_instance=instance_number,
        rq_url_prefix=url_for(".queues_overview"),
        rq_dashboard_version=VERSION,
        rq_version=RQ_VERSION,
        **more,
    )


def _done(what: str, queue: str, jobs: int) -> Response:
    log.info(what, queue=queue, jobs=jobs, user=g.user)
    return jsonify(status="OK", count=jobs)


def _check_listing(registry: str, per_page: int, order: str, page: int) -> None:
    """The URL is anybody's to write."""
    if registry not in REGISTRIES or order not in ("asc", "dsc") or not 1 <= per_page <= MOST_PER_PAGE or page < 1:
        abort(404, f"there is no such list; one shows 1 to {MOST_PER_PAGE} jobs of {', '.join(REGISTRIES)}")


def _listed(
    connection: redis.Redis, queue: str, registry: str, per_page: int, order: str, page: int
) -> tuple[int, list[str]]:
    """How many jobs lie there, and the ids on this page."""
    key = f"rq:{REGISTRIES[registry]}:{queue}"
    total = int(connection.llen(key) if registry == "queued" else connection.zcard(key))
    start = (page - 1) * per_page
    stop = min(start + per_page, total)
    if start >= stop:
        return total, []
    if order == "dsc":
        start, stop = total - stop, total - start
    found: list[Any] = (connection.lrange if registry == "queued" else connection.zrange)(key, start, stop - 1)
    ids = [entry.decode().partition(":")[0] for entry in found]  # a claim's entry is `<id>:<worker>`
    return total, ids[::-1] if order == "dsc" else ids


def _pagination(total: int, per_page: int, page: int, place: dict[str, Any]) -> dict[str, Any]:
    """As the page's script wants it; absent links are left out."""
    last = -(-total // per_page)
    first_linked = max(1, min(page - LINKED_PAGES // 2, last - LINKED_PAGES + 1))

    def link(number: int) -> dict[str, str]:
        return {"url": url_for(".jobs_overview", **place, page=number)}

    numbers = range(first_linked, min(last, first_linked + LINKED_PAGES - 1) + 1)
    neighbours = {"prev_page": page - 1 if page > 1 else None, "next_page": page + 1 if page < last else None}
    return {
        "current_page": page,
        "num_pages": last,
        "pages_in_window": [link(number) | {"number": number} for number in numbers],
        "first_page": link(1),
        "last_page": link(max(last, 1)),
        **{name: link(number) for name, number in neighbours.items() if number},
    }


def _listed_job(job: Job) -> dict[str, Any]:
    """As the page's script wants it; a job that was given up by hand has its end from its result alone."""
    result = job.latest_result()
    ended_at = job.ended_at or (result.created_at if result else None)
    return {
        "id": job.id,
        "created_at": job.created_at.isoformat(),
        "started_at": job.started_at.isoformat() if job.started_at else None,
        "ended_at": ended_at.isoformat() if ended_at else None,
        "exc_info": result.exc_string if result else None,
        "description": job.description,
    }


def _worker(worker: BaseWorker) -> dict[str, Any]:
    """As the page's script wants it; a job is shown by its description, as its call holds people's data."""
    try:
        job = worker.get_current_job()
    except NoSuchJobError:
        job = None  # it has ended meanwhile
    return {
        "name": worker.name,
        "pid": worker.pid,
        "queues": worker.queue_names(),
        "state": str(worker.get_state()),
        "current_job": "idle" if job is None else _current(job),
        "last_heartbeat": worker.last_heartbeat,
        "birth_date": worker.birth_date,
        "successful_job_count": worker.successful_job_count,
        "failed_job_count": worker.failed_job_count,
        "total_working_time": worker.total_working_time,
        "version": worker.version,
        "python_version": worker.python_version,
    }


def _current(job: Job) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "description": job.description,
        "created_at": job.created_at.isoformat(),
        "call_string": job.description,
    }
