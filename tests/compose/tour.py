"""A tour of the Compose file on a Docker engine: everything docs/deploy.md promises of it, from an empty state to an empty state.

It runs a project of its own, `dropdex-tour`, beside any other, with the standard library only: `make compose-tour`. It needs Docker
with Compose and the images of the Compose file; COMPOSE says how Compose is called, COMPOSE_FILE may add files to the one it reads.
The first promise that is not kept ends it. It is no part of the tests, because it needs an engine and some ten minutes.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMPOSE = shlex.split(os.environ.get("COMPOSE", "docker compose"))
ENVIRONMENT = {"COMPOSE_PROJECT_NAME": "dropdex-tour", "LOCALSTACK_PORT": "0", "FLOWER_PORT": "0"}
SERVICES = ("watcher", "embedding", "indexing", "beat", "maintenance", "flower", "redis", "localstack")
QUEUES = ("documents-events", "documents-events-dead-letters")

PATIENCE = 300.0
"""Seconds after which what should have happened has not. Generous: the machine may be busy."""

NOTES, PAGES = 45, 300
"""Documents that are put at once, for three workers and while containers are killed."""


class NotKept(Exception):
    """A promise that is not kept."""


def attempt(command: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **ENVIRONMENT}
    return subprocess.run(command, cwd=ROOT, env=environment, input=stdin, capture_output=True, text=True, check=False, timeout=600)


def call(*command: str) -> str:
    done = attempt([*command])
    if done.returncode:
        raise NotKept(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def compose(*arguments: str) -> str:
    return call(*COMPOSE, *arguments)


def aws(*arguments: str) -> str:
    return compose("exec", "-T", "localstack", "awslocal", *arguments)


def ask(*arguments: str) -> str:
    """What `dropdex` says, and nothing where it cannot be asked just now."""
    done = attempt([*COMPOSE, "exec", "-T", "maintenance", "dropdex", *arguments])
    return done.stdout if done.returncode == 0 else ""


def container(service: str) -> str:
    return compose("ps", "--all", "--quiet", service).split()[0]


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def wait_for(what: str, condition: Callable[[], object]) -> float:
    """Seconds until the condition is true."""
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > PATIENCE:
            raise NotKept(f"waited {PATIENCE:g} s for {what}")
        time.sleep(0.2)
    return time.monotonic() - begin


# What a user does -----------------------------------------------------------------------------------------------------


def put(key: str, text: str) -> None:
    """Put a document, trying until the bucket answers."""
    command = [*COMPOSE, "exec", "-T", "localstack", "awslocal", "s3", "cp", "-", f"s3://documents/{key}"]
    wait_for(f"the bucket to take {key}", lambda: attempt(command, text).returncode == 0)


def put_many(folder: str, count: int, text: str) -> None:
    """Put documents 1 to `count`, in which $i stands for the number, as fast as one client can."""
    files = f'rm -rf /tmp/many && mkdir /tmp/many && for i in $(seq {count}); do echo "{text}" > /tmp/many/$i.md; done'
    copy = f"awslocal s3 cp --quiet --recursive /tmp/many s3://documents/{folder}/"
    compose("exec", "-T", "localstack", "sh", "-c", f"{files}; {copy}")


def searchable(key: str) -> bool:
    return " is searchable since " in ask("where", f"s3://documents/{key}")


def search(text: str) -> str:
    return compose("run", "--rm", "search", text)


def status() -> dict[str, object]:
    return json.loads(ask("status", "--json") or "{}")


def healthy(least: int = len(SERVICES)) -> bool:
    found = [json.loads(line) for line in compose("ps", "--format", "json").splitlines()]
    return len(found) >= least and all(one["Health"] == "healthy" for one in found)


def equal() -> None:
    """The index says what the bucket says, and no message is left."""
    wait_for("nothing to be pending", lambda: status().get("pending") == 0)
    say("verify: " + compose("exec", "-T", "maintenance", "dropdex", "verify").strip())


def queues() -> None:
    def counts(queue: str) -> list[int]:
        url = aws("sqs", "get-queue-url", "--queue-name", queue, "--output", "text").strip()
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = json.loads(aws("sqs", "get-queue-attributes", "--queue-url", url, "--attribute-names", *names, "--output", "json"))
        return [int(found["Attributes"][name]) for name in names]

    wait_for("every message to be answered", lambda: counts(QUEUES[0]) == [0, 0])
    if counts(QUEUES[1]) != [0, 0]:
        raise NotKept("the dead-letter queue is not empty")
    say("no message waits, none is held, and the dead-letter queue is empty")


# The stations ---------------------------------------------------------------------------------------------------------


def come_up() -> None:
    compose("down", "--volumes", "--remove-orphans")
    begin = time.monotonic()
    compose("up", "--detach", "--wait")
    say(f"everything is healthy {time.monotonic() - begin:.0f} s after `up` from an empty state")


def follow_one_document() -> None:
    put("lighthouse.md", "The lighthouse keeper of Skerryvore trained a parrot to announce fog.")
    say(f"a document is searchable {wait_for('the document', lambda: searchable('lighthouse.md')):.1f} s after it was put")
    if "parrot" not in search("bird that warns of bad weather at sea"):
        raise NotKept("the document is not found by what it means")
    put("lighthouse.md", "The lighthouse keeper of Skerryvore sold the parrot and bought a foghorn.")
    wait_for("the update", lambda: "foghorn" in search("lighthouse"))
    aws("s3", "rm", "s3://documents/lighthouse.md")
    took = wait_for("the removal", lambda: status().get("published_documents") == 0)
    say(f"it was found, updated, and is gone {took:.1f} s after it was removed")


def scale() -> None:
    compose("up", "--detach", "--no-recreate", "--scale", "embedding=3", "embedding")
    say(f"three embedding workers are healthy after {wait_for('them to be healthy', lambda: healthy(len(SERVICES) + 2)):.0f} s")
    put_many("notes", NOTES, "Note number $i: the warehouse in row $i stores $((i * 37)) crates of oranges.")
    wait_for("the notes", lambda: status().get("published_documents") == NOTES)
    workers = compose("ps", "--quiet", "embedding").split()
    shares = [attempt(["docker", "logs", worker]).stderr.count("succeeded in") for worker in workers]
    if 0 in shares or len(shares) != 3:
        raise NotKept(f"a worker did nothing: {shares}")
    say(f"{NOTES} documents put at once: the workers carried out {shares} tasks")
    equal()


def crash(service: str) -> None:
    """Its processes die inside the container, as by the kernel's memory killer; the restart policy brings it back."""
    before = _restarts(service)
    attempt(["docker", "exec", container(service), "sh", "-c", "kill -9 -1"])
    wait_for(f"{service} to be restarted", lambda: _restarts(service) > before)


def _restarts(service: str) -> int:
    return int(call("docker", "inspect", "--format", "{{.RestartCount}}", container(service)))


def kill(service: str) -> None:
    """The whole container is killed, and an operator starts it again."""
    call("docker", "kill", container(service))
    time.sleep(1)
    call("docker", "start", container(service))


def lose(service: str, how: Callable[[str], None]) -> None:
    put(f"before/{how.__name__}/{service}.md", f"Somebody wrote this right before {service} was lost.")
    how(service)
    put(f"after/{how.__name__}/{service}.md", f"Somebody wrote this right after {service} was lost.")
    keys = [f"{when}/{how.__name__}/{service}.md" for when in ("before", "after")]
    took = wait_for("what was put before and after", lambda: all(map(searchable, keys)))
    rest = wait_for("everything to be healthy", healthy)
    say(f"{how.__name__} {service}: both documents are searchable after {took:.1f} s, everything is healthy after {took + rest:.0f} s")


def lose_each() -> None:
    for how in (crash, kill):
        for service in SERVICES:
            lose(service, how)
    equal()


def lose_many_under_load() -> None:
    with ThreadPoolExecutor(1) as pool:
        uploading = pool.submit(put_many, "ledger", PAGES, "Ledger page $i records $((i * 13)) barrels of herring landed on day $i.")
        meanwhile = 0
        for service in ("embedding", "indexing", "watcher", "redis"):
            kill(service)
            meanwhile += not uploading.done()
        uploading.result()
    kill("localstack")
    took = wait_for("the pages", lambda: status().get("published_documents") == NOTES + 4 * len(SERVICES) + PAGES)
    say(f"{PAGES} documents put, {meanwhile} containers killed meanwhile, {5 - meanwhile} right after: all published {took:.0f} s later")
    wait_for("everything to be healthy", healthy)
    equal()


def flush_redis() -> None:
    compose("exec", "-T", "redis", "redis-cli", "flushall")
    put("after.md", "Written after the flood: the quay was rebuilt in granite.")
    took = wait_for("the next document", lambda: searchable("after.md"))
    equal()
    if status().get("embedded_total") != 1:
        raise NotKept(f"something published was embedded again: {status().get('embedded_total')} passages")
    say(f"Redis forgot everything: the next document is searchable after {took:.1f} s, and nothing else was embedded again")


def stop_and_start() -> None:
    compose("down")
    compose("up", "--detach", "--wait")
    put("restart.md", "After the restart somebody painted the boats.")
    took = wait_for("a document after `down` and `up`", lambda: searchable("restart.md"))
    equal()
    say(f"`down` and `up` kept everything; a document is searchable after {took:.1f} s")


def main() -> None:
    begin = time.monotonic()
    for station in (come_up, follow_one_document, scale, lose_each, lose_many_under_load, flush_redis, stop_and_start, queues):
        print(f"== {station.__name__.replace('_', ' ')}", flush=True)
        station()
    compose("down", "--volumes")
    say(f"every promise was kept, in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except NotKept as failure:
        remedy = "COMPOSE_PROJECT_NAME=dropdex-tour docker compose down --volumes"
        sys.exit(f"compose-tour: {failure}\nThe containers are left as they are; to remove them: {remedy}")
