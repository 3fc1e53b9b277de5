"""The peers of the edge, each answering with the same release and the same scoring: `python -m benchmarks.peers ...`.

bare RELEASE PORT     uvicorn and Starlette, nothing else: what this machine can do
native                a BentoML service without the edge; served by `bentoml serve` from this module
"""

import asyncio
import sys
from pathlib import Path

from mlflow_server.release import Loaded, load
from models.base import slates


def ids(release: Loaded, user_id: str, k: int) -> list[str]:
    """A slate, scored as the edge scores it."""
    history = release.viewers.history(user_id)
    items = slates(release.model, history, release.live, release.manifest.end_ms, k).items[0]
    return release.catalogue.ids[items[items >= 0]].tolist()


def bare(folder: Path, port: int) -> None:
    """Starlette under uvicorn, with the same garbage collection as the edge, so that only the layers differ."""
    import gc

    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    release = load(folder)

    async def recommend(request: Request) -> PlainTextResponse:
        k = int(request.query_params.get("k", 20))
        return PlainTextResponse(",".join(ids(release, request.path_params["user_id"], k)))

    gc.collect()
    gc.freeze()
    app = Starlette(routes=[Route("/recommend/{user_id}", recommend)])
    asyncio.run(uvicorn.Server(uvicorn.Config(app, port=port, access_log=False, log_level="warning")).serve())


NATIVE = """
import bentoml
from pathlib import Path
from benchmarks.peers import ids
from mlflow_server.release import load

@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Native:
    def __init__(self):
        self.release = load(Path(RELEASE))

    @bentoml.api(route="/v1/recommend")
    async def recommend(self, user_id: str, k: int = 20) -> list[str]:
        return ids(self.release, user_id, k)
"""


if __name__ == "__main__":
    bare(Path(sys.argv[2]), int(sys.argv[3]))
