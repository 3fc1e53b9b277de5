"""A home of published data sets, as a process of its own: `python data_home.py FOLDER` prints its port.

Files come from FOLDER. `.md5` beside a file is its checksum, where it exists. A file `fault.json` there says what is
wrong today: {"cut": n} ends each answer after n bytes, {"status": 503} answers so, {"part": true} sends a wrong part,
{"etag": false} names no edition. What was asked is appended to `asked.jsonl`.
"""

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class DataHome(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        path = self.folder / Path(self.path).name
        with (self.folder / "asked.jsonl").open("a") as asked:
            asked.write(json.dumps({"path": self.path, "range": self.headers.get("Range", "")}) + "\n")
        fault = json.loads((self.folder / "fault.json").read_text()) if (self.folder / "fault.json").exists() else {}
        if not path.exists():
            self._answer(404, b"no such file")
        elif path.suffix == ".md5":
            self._answer(200, path.read_bytes())
        elif "status" in fault:
            self._answer(fault["status"], b"not today")
        else:
            self._file(path.read_bytes(), fault)

    def _file(self, content: bytes, fault: dict) -> None:
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        begin, headers = 0, {} if fault.get("etag") is False else {"ETag": tag}
        asked = self.headers.get("Range", "")
        if asked and self.headers.get("If-Range") == tag:
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(content):
                return self._answer(416, b"")
            shown = begin + 1 if fault.get("part") else begin
            headers["Content-Range"] = f"bytes {shown}-{len(content) - 1}/{len(content)}"
        self._answer(206 if begin else 200, content[begin:], headers, fault.get("cut"))

    def _answer(self, status: int, body: bytes, headers: dict | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        if cut is not None and cut < len(body):
            self.close_connection = True

    def log_message(self, *words: object) -> None:
        pass


if __name__ == "__main__":
    DataHome.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), DataHome)
    print(server.server_port, flush=True)
    server.serve_forever()
