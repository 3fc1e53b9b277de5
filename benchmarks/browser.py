"""Headless Chromium over its debugging pipe (no port, no driver program): open a page, wait for words, act, picture.

Protocol: https://chromedevtools.github.io/devtools-protocol/ ; with `--remote-debugging-pipe` each message is JSON and
ends with a zero byte.
"""

import base64
import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE_S = 60.0
RELOAD_S = 10.0
SETTLE_S = 2.0  # pictures and fonts come after the words


class Page:
    """One tab. TimeoutError where the page does not come to what is waited for."""

    def __init__(self, asks: int, answers: int) -> None:
        self._asks, self._answers, self._number, self._session = asks, os.fdopen(answers, "rb"), 0, ""
        target = self._say("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._say("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def log_in(self, name: str, password: str) -> None:
        """Send a basic login with every request from now on."""
        token = base64.b64encode(f"{name}:{password}".encode()).decode()
        self._say("Network.enable")
        self._say("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {token}"})

    def open(self, url: str, words: str = "") -> None:
        """Go there, again and again, until the page shows `words`: what it shows may come to be only later."""
        there = f"document.readyState == 'complete' && document.body.innerText.includes({json.dumps(words)})"
        until = time.monotonic() + PATIENCE_S
        while True:
            self._say("Page.navigate", url="about:blank")  # so that the next is loaded anew
            self._say("Page.navigate", url=url)
            try:
                self.wait(there, RELOAD_S)
                return
            except TimeoutError:
                if time.monotonic() > until:
                    raise

    def ask(self, script: str) -> Any:
        """What a JavaScript expression is worth; RuntimeError where it throws."""
        answer = self._say("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", script))
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = PATIENCE_S) -> Any:
        """Ask again and again until the answer is something."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(RuntimeError):  # the page is being built
                if found := self.ask(script):
                    return found
            time.sleep(0.1)
        raise TimeoutError(f"{script} did not come true; the page shows: {self.text()[:2000]}")

    def text(self) -> str:
        return self.ask("document.body.innerText")

    def press(self, script: str) -> None:
        """Click, as a mouse does, in the middle of the element that the expression finds."""
        at = self.wait(
            f"(e => {{ if (!e) return null; e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect();"
            f" return [b.x + b.width / 2, b.y + b.height / 2] }})({script})"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._say("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)

    def type(self, words: str) -> None:
        self._say("Input.insertText", text=words)

    def enter(self) -> None:
        for kind in ("keyDown", "keyUp"):
            self._say(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
            )

    def picture(self, file: Path, width: int, height: int = 0) -> None:
        """A PNG of what is seen in a window of this size. height 0: as high as the page is."""
        self._window(width, height or 400)
        time.sleep(SETTLE_S)
        if not height:
            self._window(width, self.ask("document.documentElement.scrollHeight"))
        file.write_bytes(base64.b64decode(self._say("Page.captureScreenshot", format="png")["data"]))

    def _window(self, width: int, height: int) -> None:
        self._say("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def _say(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._asks, json.dumps(message).encode() + b"\0")
        while (answer := self._heard()).get("id") != self._number:
            continue  # events of the page
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _heard(self) -> dict[str, Any]:
        read = bytearray()
        while not read.endswith(b"\0"):
            if not (one := self._answers.read(1)):
                raise RuntimeError("Chromium ended")
            read += one
        return json.loads(read[:-1])


@contextlib.contextmanager
def chromium(program: str = "chromium") -> Iterator[Page]:
    """A browser of its own, that remembers nothing."""
    to_it, asks = os.pipe()
    answers, from_it = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        command = [program, *FLAGS, f"--user-data-dir={scratch}", "--window-size=1900,1000"]
        process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_it} 4>&{from_it}', "bash", *command, "--remote-debugging-pipe"],
            pass_fds=(to_it, from_it),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_it)
        os.close(from_it)
        try:
            yield Page(asks, answers)
        finally:
            process.terminate()
            process.wait(20)
            os.close(asks)
