"""A store in an S3 bucket, through boto3. Credentials come from the usual AWS places, never from settings.

    s3://<bucket>/<prefix>/home.json       which home this prefix belongs to: another one may read, not write
                          /history/…       as in folders
                          /releases/…
                          /artifacts/…     MLflow's own, which it writes itself

Every object is put with server-side encryption asked for and with its SHA-256: as a checksum that S3 checks on arrival,
and as metadata that `read` checks, so a short or changed answer is never taken for the piece. Each request is bounded
in time and repeated by botocore with growing pauses, also when S3 says SlowDown; after that it is one plain sentence,
and what was being done goes on from there when it is repeated.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conf.environment import encryption
from conf.home import Home
from conf.sections.storage import Storage
from events.store import Missing, StoreError, begin, check_place, locked

OWNER = "home.json"
CONNECTIONS = 10  # kept open: as many as any caller has threads
TAKEN = ("PreconditionFailed", "ConditionalRequestConflict")  # another home was first, or is just now
ABSENT = ("NoSuchKey", "404", "NotFound")
DENIED = "the credentials found (environment, profile or role) may not do this: check them and the bucket's policy"
ADVICE = {  # by error code of S3
    "NoSuchBucket": "there is no such bucket: make it, or set storage.bucket",
    "AccessDenied": DENIED,
    "403": DENIED,
    "InvalidAccessKeyId": DENIED,
    "SignatureDoesNotMatch": DENIED,
    "ExpiredToken": "the credentials have expired: renew them and repeat",
    "PermanentRedirect": "the bucket is in another region: set storage.region",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set storage.region",
    "IllegalLocationConstraintException": "the bucket is in another region: set storage.region",
    "301": "the bucket is in another region: set storage.region",
    "SlowDown": "S3 asked to slow down, also after {attempts} attempts: repeat it later",
    "503": "S3 asked to slow down, also after {attempts} attempts: repeat it later",
}
NO_CREDENTIALS = "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role"


class BucketStore:
    """The pieces under one folder of the bucket's prefix.

    The lock is a file of the home: it holds between processes of this home only. That is enough because a prefix
    belongs to the home that first wrote there, and any other home is refused.
    """

    def __init__(self, storage: Storage, folder: str, home: Home) -> None:
        self.storage, self.home = storage, home
        self.marks = home.root / folder
        self.prefix = "/".join(part for part in (storage.prefix.strip("/"), folder) if part)
        self._owned = False
        self._s3 = _client(storage)

    def place(self, name: str = "") -> str:
        return f"s3://{self.storage.bucket}/{self.prefix}/{name}"

    def names(self, under: str = "") -> Iterator[str]:
        start = f"{self.prefix}/{under}/" if under else f"{self.prefix}/"
        with self._plain(self.place(under), "listed"):
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.storage.bucket, Prefix=start)
            for page in pages:
                yield from (found["Key"].removeprefix(f"{self.prefix}/") for found in page.get("Contents", ()))

    def read(self, name: str) -> bytes:
        return self._get(f"{self.prefix}/{name}", self.place(name))

    def write(self, name: str, content: bytes | memoryview) -> None:
        with self._plain(self.place(name), "written"):
            self._put(f"{self.prefix}/{name}", bytes(content))

    def delete(self, name: str) -> None:
        with self._plain(self.place(name), "removed"):
            self._s3.delete_object(Bucket=self.storage.bucket, Key=f"{self.prefix}/{name}")

    def size(self, name: str) -> int | None:
        try:
            with self._plain(self.place(name), "looked up"):
                return self._s3.head_object(Bucket=self.storage.bucket, Key=f"{self.prefix}/{name}")["ContentLength"]
        except Missing:
            return None

    @contextmanager
    def alone(self) -> Iterator[None]:
        check_place(self.home, self.storage)
        with locked(self.marks):
            if not self._owned:
                self._own()
            yield

    # Requests ---------------------------------------------------------------------------------------------------------

    def _put(self, key: str, content: bytes, **conditions: str) -> None:
        digest = hashlib.sha256(content)
        self._s3.put_object(
            Bucket=self.storage.bucket,
            Key=key,
            Body=content,
            ChecksumSHA256=base64.b64encode(digest.digest()).decode(),
            Metadata={"sha256": digest.hexdigest()},
            **encryption(self.storage),
            **conditions,
        )

    def _get(self, key: str, place: str) -> bytes:
        """The whole object. A connection that breaks below the answer is ours to repeat: botocore has returned then."""
        from botocore.exceptions import BotoCoreError

        for left in reversed(range(self.storage.attempts)):
            with self._plain(place, "read"):
                answer = self._s3.get_object(Bucket=self.storage.bucket, Key=key)
                try:
                    content = answer["Body"].read()
                except BotoCoreError:
                    if left:
                        continue
                    raise
            digest = hashlib.sha256(content).hexdigest()
            if answer["Metadata"].get("sha256", digest) == digest:  # it is missing where people put a copy back
                return content
        raise StoreError(f"{place} is damaged: its content does not match its SHA-256; restore it from a backup")

    @contextmanager
    def _plain(self, place: str, done: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as why:
            if why.response.get("Error", {}).get("Code") in ABSENT:
                raise Missing(f"{place} is missing") from why
            raise StoreError(f"{place} cannot be {done}: {explained(why, self.storage)}") from why
        except (BotoCoreError, Boto3Error) as why:
            raise StoreError(f"{place} cannot be {done}: {explained(why, self.storage)}") from why

    def _own(self) -> None:
        """Make sure that the prefix belongs to this home. Of two homes that meet here first, S3 lets one win."""
        from botocore.exceptions import ClientError

        new = not self.home.place.exists()
        name = begin(self.home, self.storage)
        key = "/".join(part for part in (self.storage.prefix.strip("/"), OWNER) if part)
        place = f"s3://{self.storage.bucket}/{key}"
        with self._plain(place, "written"):
            try:
                self._put(key, json.dumps({"home": name}).encode(), IfNoneMatch="*")
            except ClientError as why:
                if why.response["Error"]["Code"] not in TAKEN:
                    raise
        if json.loads(self._get(key, place)) != {"home": name}:
            if new:  # nothing of this home is there yet: it may begin elsewhere
                self.home.place.unlink(missing_ok=True)
            raise StoreError(
                f"{place} says that another home keeps its history there: set storage.prefix to a place of its own; "
                "where that home is gone for good, remove this object and repeat"
            )
        self._owned = True


def trouble(why: BaseException, storage: Storage) -> str | None:
    """In plain words what S3 or the way to it did, where that is what an error of another library comes from."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    found: Exception | None = None
    link: BaseException | None = why
    while link is not None:  # the innermost one says most
        found = link if isinstance(link, ClientError | BotoCoreError | Boto3Error) else found
        link = link.__cause__ or link.__context__
    return explained(found, storage) if found else None


def explained(why: Exception, storage: Storage) -> str:
    """What boto3 says, as a cause and what to do. No secret is in it: boto3 names keys by their place only."""
    from botocore.exceptions import (
        ClientError,
        CredentialRetrievalError,
        HTTPClientError,
        IncompleteReadError,
        NoCredentialsError,
        PartialCredentialsError,
    )
    from botocore.exceptions import ConnectionError as Unconnected

    told = " ".join(str(why).split())
    if isinstance(why, ClientError):
        code = why.response.get("Error", {}).get("Code", "")
        return ADVICE.get(code, told).format(attempts=storage.attempts)
    if isinstance(why, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return f"{NO_CREDENTIALS} ({told})"
    if isinstance(why, HTTPClientError | Unconnected | IncompleteReadError):
        return f"S3 cannot be reached or the link broke, {storage.attempts} times: repeat it when it is back ({told})"
    return told


def _client(storage: Storage) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    try:
        return boto3.session.Session().client(
            "s3",
            region_name=storage.region or None,
            endpoint_url=storage.endpoint or None,
            config=Config(
                connect_timeout=storage.timeout_s,
                read_timeout=storage.timeout_s,
                max_pool_connections=CONNECTIONS,
                retries={"mode": "standard", "total_max_attempts": storage.attempts},
                s3={"addressing_style": "path" if storage.endpoint else "auto"},
            ),
        )
    except (BotoCoreError, ValueError) as why:
        raise StoreError(f"bucket {storage.bucket} cannot be opened: {explained(why, storage)}") from why
