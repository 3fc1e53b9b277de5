"""An edge over a small release, called as a web server calls it."""

import asyncio
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from conf.home import Home
from conf.sections.kafka import Kafka
from conf.sections.serving import Cache, Door, Intake, Serving
from conf.settings import Settings
from mlflow_server.building import build
from mlflow_server.ledger import SigningKey
from mlflow_server.release import Release
from models.shelf import find, load_file
from serving.edge import Edge
from serving.opened import Opened, Packaged
from serving.shelf import Shelf

TINY = Path(__file__).parent / "tiny.py"


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, key: SigningKey) -> Callable[[str], Release]:
    """The release of a model of `tiny.py`, built once."""
    tiny, parent = load_file(TINY), tmp_path_factory.mktemp("releases")

    @functools.cache
    def make(name: str) -> Release:
        shelved = find(f"{TINY}:{name}")
        model = shelved.cls().fit(tiny.world())
        return build(parent, model, shelved, "snap1", tiny.world(), "abc123", key)

    return make


class Client:
    """Sends requests to an edge that was started, and stops it."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        edge.start()

    def __call__(self, method: str, path: str, **more: object) -> httpx.Response:
        return self.all((method, path, more))[0]

    def all(self, *wishes: tuple[str, str, dict]) -> list[httpx.Response]:
        """Several requests at once."""

        async def run() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.edge)
            async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
                return await asyncio.gather(*(client.request(m, p, **more) for m, p, more in wishes))

        return asyncio.run(run())

    def metric(self, line: str) -> float:
        """The value of one line of `/metrics`, 0 where it is not there."""
        for found in self("GET", "/metrics").text.splitlines():
            if found.startswith(line + " "):
                return float(found.rsplit(" ", 1)[1])
        return 0.0


async def _beneath(request: object) -> PlainTextResponse:
    return PlainTextResponse("from beneath")


@pytest.fixture
def client(built: Callable[[str], Release], key: SigningKey, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """`client(model)`: an edge over a copy of that model's release; `inline`: it scores on the event loop."""
    made: list[Client] = []

    def start(
        name: str = "Tiny",
        inline: bool = True,
        home: Home | None = None,
        cache: Cache | None = None,
        door: dict[str, Any] | None = None,
        intake: dict[str, Any] | None = None,
        kafka: dict[str, Any] | None = None,
        **serving: Any,
    ) -> Client:
        folder = tmp_path / f"release{len(made)}"
        shutil.copytree(built(name).folder, folder)
        packaged = Packaged(built(name).digest, key.public, {"median_ms": 0.1 if inline else 5.0})
        options = {"popularity_share": 0.0, "exploration_share": 0.0, **serving}
        conf = Settings(
            serving=Serving(inline_below_ms=1000 if inline else 1e-9, **options),
            cache=cache or Cache(),
            door=Door(**{"anonymous_per_minute": 1_000_000, **(door or {})}),
            intake=Intake(**(intake or {})),
            kafka=Kafka(**(kafka or {})),
        )
        inner = Starlette(routes=[Route("/beneath", _beneath)])
        made.append(Client(Edge(inner, lambda: Shelf(Opened(folder, packaged, conf)), home, conf)))
        return made[-1]

    yield start
    for one in made:
        one.edge.stop()
