"""The BentoML service `greenlight`. `bentoml serve` runs it; the edge stands in front of BentoML's stack.

In a Bento, `release/` and `packaged.json` lie beside this package (see `pipelines/package.py`).
"""

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Any

import bentoml
import click
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException, InvalidArgument
from pydantic import BaseModel

from conf import settings as configuration
from conf.environment import keep_peers
from conf.errors import PlainError
from conf.home import Home
from mlflow_server.release import load_popular
from serving import reading
from serving.answer import as_json
from serving.bind import check_bind, check_socket
from serving.edge import Edge
from serving.opened import Opened, Packaged
from serving.scrub import scrub_logs
from serving.shelf import Shelf

SETTINGS = configuration.load()
keep_peers()
scrub_logs()
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


def existing_home() -> Home | None:
    home = Home.from_environment()
    return home if home.kind() else None


def refuse_open_bind() -> None:
    """In the process that starts the workers: BentoMLException, so one sentence, where the bind is open to others."""
    asked = _command_line()
    host = asked.get("host") or BentoMLContainer.http.host.get()
    certificate = asked.get("ssl_certfile") or BentoMLContainer.ssl.certfile.get()
    try:
        check_bind(host, bool(certificate), existing_home())
    except PlainError as why:
        raise BentoMLException(str(why)) from why


def refuse_open_socket() -> None:
    """In a worker, which is handed its socket: whoever started it, it answers on no open one."""
    asked = _command_line()
    if "fd" in asked:
        check_socket(asked["fd"], bool(asked["ssl_certfile"]), existing_home())


def _command_line() -> dict[str, Any]:
    """What BentoML's command was called with, its environment variables included."""
    context = click.get_current_context(silent=True)
    return context.params if context else {}


class EdgeService(bentoml.Service):
    """BentoML's worker hands what `to_asgi` returns to its web server: here that is the edge."""

    __slots__ = ("edge",)

    def to_asgi(self, is_main: bool = True) -> Edge:
        refuse_open_socket()
        home = existing_home()
        self.edge = Edge(super().to_asgi(is_main), partial(open_shelf, home), home, SETTINGS)
        return self.edge


@bentoml.service(
    name="greenlight",
    http={"host": SETTINGS.serving.host},  # BentoML's own default is every network of the machine
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
        refuse_open_bind()
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
