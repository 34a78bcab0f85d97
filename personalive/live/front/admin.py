"""What only the operator may ask for, and only from this machine: letting workers run empty."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, HTTPException, Request
from pydantic import Field

from personalive.live.front.pool import Pool
from personalive.live.http.schemas import Settled
from personalive.net.from_here import NOT_FROM_HERE, comes_from_here


class DrainRequest(Settled):
    """Which worker is meant."""

    worker: int | None = Field(default=None, ge=0, description="Its number; all of them if it is left out")


def from_here(request: Request) -> None:
    """Refuse what has not come straight from this machine: a proxy on it passes on what others send.

    Raises:
        HTTPException
    """
    if not comes_from_here(request.headers.raw, request.client.host if request.client else ""):
        raise HTTPException(403, NOT_FROM_HERE)


def router(pool: Pool) -> APIRouter:
    """The calls."""
    result = APIRouter(dependencies=[Depends(from_here)])
    Which = Annotated[DrainRequest, Body(default_factory=DrainRequest)]

    def seats(which: DrainRequest) -> list[int]:
        if which.worker is None:
            return list(pool.seats)
        if which.worker >= len(pool.seats):
            raise HTTPException(404, f"there is no worker {which.worker}: they are 0 to {len(pool.seats) - 1}")
        return [which.worker]

    @result.get("/admin/drain")
    async def workers() -> list[dict[str, Any]]:
        """The state of each worker."""
        return pool.described()

    @result.post("/admin/drain")
    async def drain(which: Which) -> list[dict[str, Any]]:
        """Let a worker, or all, take no new sessions and end when it has none."""
        pool.drain(seats(which))
        return pool.described()

    @result.delete("/admin/drain")
    async def reopen(which: Which) -> list[dict[str, Any]]:
        """Let it take new sessions again; one that has ended is started again."""
        pool.reopen(seats(which))
        return pool.described()

    return result
