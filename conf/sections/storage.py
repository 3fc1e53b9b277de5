"""Where versions, releases and history are kept."""

from typing import Annotated, Literal

from pydantic import Field

from conf.sections.section import Positive, Section


class Registry(Section):
    name: str = "recommender"
    port: Annotated[int, Field(ge=0, le=65535)] = 5000


class Storage(Section):
    """History, releases and MLflow's artifacts in a bucket; folders of the home where none is named."""

    bucket: str = ""
    prefix: str = "greenlight"
    endpoint: str = ""  # of an S3 that is not Amazon's
    region: str = ""
    encryption: Literal["AES256", "aws:kms", ""] = "AES256"  # at rest, asked for with every object
    kms_key: str = ""
    timeout_s: Positive = 20  # to connect, and of each wait for bytes
    attempts: Annotated[int, Field(ge=1)] = 5  # of one request, with growing pauses, before it counts as failed
