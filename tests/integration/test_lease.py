"""The lease keeps one holder at a time and loses nobody's wish for work."""

from __future__ import annotations

import time
from threading import Thread

import pytest
from redis import Redis

from pipeline.ledger.lease import Lease

NAME = "dropdex:lease:build"


def expire(redis: Redis, name: str = NAME) -> None:
    """What time does to a lease whose holder sleeps, without waiting for it."""
    assert redis.delete(name) == 1


def test_one_of_many_gets_it(redis_client: Redis) -> None:
    # Given sixteen that want the lease at the same time
    taken: list[str] = []

    def contend() -> None:
        lease = Lease(redis_client, NAME, 30)
        if lease.acquire():
            taken.append(lease.token)

    threads = [Thread(target=contend) for _ in range(16)]
    # When all try
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Then one has it
    assert len(taken) == 1
    assert redis_client.get(NAME) == taken[0]


def test_it_expires(redis_client: Redis) -> None:
    first, second = Lease(redis_client, NAME, 0.05), Lease(redis_client, NAME, 30)
    assert first.acquire()
    assert not second.acquire()
    time.sleep(0.1)
    assert second.acquire()


def test_an_expired_holder_touches_nothing_of_its_successor(redis_client: Redis) -> None:
    # Given a lease that expired under its holder and was taken by another, who has been asked for more
    first, second = Lease(redis_client, NAME, 30), Lease(redis_client, NAME, 30)
    assert first.acquire()
    expire(redis_client)
    assert second.acquire()
    second.want()
    # When the former holder goes on as if nothing had happened
    assert not first.renew()
    assert not first.release()
    assert first.release_unless_wanted()
    # Then the successor still has the lease, and the wish
    assert redis_client.get(NAME) == second.token
    assert not second.release_unless_wanted()


def test_renewing_starts_the_time_anew(redis_client: Redis) -> None:
    lease = Lease(redis_client, NAME, 30)
    assert lease.acquire()
    redis_client.pexpire(NAME, 1000)
    assert lease.renew()
    assert redis_client.pttl(NAME) > 20_000


def test_release_lets_the_next_one_in(redis_client: Redis) -> None:
    first, second = Lease(redis_client, NAME, 30), Lease(redis_client, NAME, 30)
    assert first.acquire()
    assert first.release()
    assert second.acquire()


def test_held_releases_only_what_it_took(redis_client: Redis) -> None:
    with Lease(redis_client, NAME, 30).held() as outer:
        with Lease(redis_client, NAME, 30).held() as inner:
            assert (outer, inner) == (True, False)
        assert redis_client.exists(NAME)
    assert not redis_client.exists(NAME)


def test_held_releases_after_an_error(redis_client: Redis) -> None:
    with pytest.raises(RuntimeError), Lease(redis_client, NAME, 30).held():
        raise RuntimeError
    assert not redis_client.exists(NAME)


def test_a_wish_makes_the_holder_look_once_more(redis_client: Redis) -> None:
    # Given a holder, and one that came in vain twice
    holder, late = Lease(redis_client, NAME, 30), Lease(redis_client, NAME, 30)
    assert holder.acquire()
    assert not late.acquire_or_want()
    assert not late.acquire_or_want()
    # When the holder wants to leave, then it keeps the lease once, and leaves the second time
    assert not holder.release_unless_wanted()
    assert redis_client.get(NAME) == holder.token
    assert redis_client.pttl(NAME) > 20_000
    assert holder.release_unless_wanted()
    assert not redis_client.exists(NAME)


def test_taking_the_lease_fulfils_older_wishes(redis_client: Redis) -> None:
    holder = Lease(redis_client, NAME, 30)
    holder.want()
    assert holder.acquire()
    assert holder.release_unless_wanted()


def test_a_wish_left_to_an_expired_holder_is_not_lost(redis_client: Redis) -> None:
    # Given somebody who relied on a holder, whose lease then expired
    holder, late = Lease(redis_client, NAME, 30), Lease(redis_client, NAME, 30)
    assert holder.acquire()
    assert not late.acquire_or_want()
    expire(redis_client)
    # When the holder wants to leave, then it has the lease again and must look
    assert not holder.release_unless_wanted()
    assert redis_client.get(NAME) == holder.token


def test_no_wake_up_is_lost(redis_client: Redis) -> None:
    # Given eight workers that each leave an item and then take the lease or leave a wish
    inbox, done = "inbox", "done"

    def work(number: int) -> None:
        for item in range(40):
            redis_client.rpush(inbox, f"{number}-{item}")
            lease = Lease(redis_client, NAME, 30)
            if not lease.acquire_or_want():
                continue
            while True:
                while (found := redis_client.lpop(inbox)) is not None:
                    redis_client.rpush(done, str(found))
                if lease.release_unless_wanted():
                    break

    threads = [Thread(target=work, args=(number,)) for number in range(8)]
    # When all are through
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Then nothing lies in the inbox and nobody holds the lease
    assert redis_client.llen(inbox) == 0
    assert redis_client.llen(done) == 8 * 40
    assert not redis_client.exists(NAME)


def test_keep_renews_while_the_work_lasts(redis_client: Redis) -> None:
    # Given a lease shorter than the work
    holder, other = Lease(redis_client, NAME, 0.3), Lease(redis_client, NAME, 30)
    assert holder.acquire()
    # When it is kept
    with holder.keep() as lost:
        for _ in range(8):
            time.sleep(0.1)
            assert not other.acquire()
    # Then it was never lost
    assert not lost.is_set()
    assert holder.release()


def test_keep_tells_that_the_lease_is_lost(redis_client: Redis) -> None:
    holder = Lease(redis_client, NAME, 0.15)
    assert holder.acquire()
    with holder.keep() as lost:
        redis_client.set(NAME, "somebody else")
        assert lost.wait(5)
    assert redis_client.get(NAME) == "somebody else"
