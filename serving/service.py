"""The BentoML service `greenlight`. `bentoml serve` runs it; the edge stands in front of BentoML's stack.

In a Bento, `release/` and `packaged.json` lie beside this package (see `pipelines/package.py`).
"""

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import InvalidArgument
from pydantic import BaseModel

from conf import settings as configuration
from conf.home import Home
from mlflow_server.release import load_popular
from serving import reading
from serving.answer import as_json
from serving.edge import Edge
from serving.opened import Opened, Packaged
from serving.shelf import Shelf

SETTINGS = configuration.load()
ROOT = Path(__file__).resolve().parent.parent


class Item(BaseModel):
    movie_id: str
    title: str
    score: float


class Answer(BaseModel):
    request_id: str
    arm: str
    release: str
    rung: str
    items: list[Item]


def open_shelf(home: Home | None) -> Shelf:
    return Shelf(Opened(ROOT / "release", Packaged.read(ROOT / "packaged.json"), SETTINGS), home)


class EdgeService(bentoml.Service):
    """BentoML's worker hands what `to_asgi` returns to its web server: here that is the edge."""

    __slots__ = ("edge",)

    def to_asgi(self, is_main: bool = True) -> Edge:
        found = Home.from_environment()
        home = found if found.kind() else None
        self.edge = Edge(super().to_asgi(is_main), partial(open_shelf, home), home, SETTINGS)
        return self.edge


@bentoml.service(
    name="greenlight",
    workers=SETTINGS.serving.workers,
    traffic={"timeout": SETTINGS.serving.max_deadline_ms / 1000},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},  # they label raw paths: a series per viewer
    service_class=EdgeService,
)
class Greenlight:
    """Movie recommendations, with the release and the rung that made them."""

    bento_service: Any  # BentoML sets it

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Refuse to start, once and plainly, where not even the popularity ranking can be read."""
        load_popular(ROOT / "release")

    @bentoml.api(route="/v1/recommend")
    async def recommend(self, user_id: str, k: int = SETTINGS.serving.default_k) -> Answer:
        """The k best movies for a viewer. (The edge answers this route before BentoML does, with the same function.)"""
        edge: Edge = self.bento_service.edge
        call = reading.Call({}, _nothing, time.monotonic(), edge.ids.next())
        try:
            wish = reading.user(user_id), reading.count(k, SETTINGS.serving.max_k)
            answered = await edge.answering.slate(*wish, call, SETTINGS.serving.deadline_ms, _stays)
        except reading.Refused as why:
            raise InvalidArgument(str(why)) from why
        return Answer(**as_json(answered, call.request_id))


async def _stays() -> None:
    """BentoML does not say when a caller has gone."""
    await asyncio.Event().wait()


async def _nothing() -> reading.Message:
    """BentoML has read the request already."""
    return {"type": "http.disconnect"}
