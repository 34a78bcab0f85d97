"""Requests and answers of the REST interface."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from personalive.live.core.parameters import LoadParameters
from personalive.live.http.settings import LoadParams
from personalive.live.transport.offer import MAX_SDP

EXAMPLE_SDP = "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n…"


class Settled(BaseModel):
    """A request in which a name that does not exist is a mistake, not something to ignore."""

    model_config = ConfigDict(extra="forbid")


class LoadRequest(Settled):
    """Which pipeline to load, and how."""

    pipeline_id: Literal["personalive"] = "personalive"
    load_params: LoadParams = Field(default_factory=LoadParameters)
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"pipeline_id": "personalive", "load_params": {"width": 512, "height": 512, "seed": 42}}]
        }
    )


class MessageAnswer(BaseModel):
    """A sentence about what happens now."""

    message: str


class StatusAnswer(BaseModel):
    """The progress of loading."""

    status: Literal["not_loaded", "loading", "loaded", "error"]
    pipeline_id: str | None = None
    load_params: dict[str, Any] | None = None
    stage: str | None = Field(default=None, description="What is being done while loading")
    error: str | None = None
    pictures_per_second: float | None = Field(
        default=None, description="What one more session would get; speech looks fluent from 15"
    )
    advice: str | None = Field(default=None, description="What would help if that is too slow")


class ModeAnswer(BaseModel):
    """A choice that the page offers in place of numbers."""

    name: str
    label: str
    description: str
    load_params: dict[str, int] = Field(description="For `POST /api/v1/pipeline/load`")
    parameters: dict[str, Any] = Field(description="For a session")


class FaceAnswer(BaseModel):
    """Whether a picture of the camera shows a face that can drive."""

    found: bool | None = Field(description="null: this server leaves finding it to the model")
    box: list[float] | None = Field(
        min_length=4, max_length=4, description="Left, top, right, bottom as fractions of the picture"
    )


class ReferenceAnswer(BaseModel):
    """What happened to a portrait."""

    success: bool
    message: str
    remarks: tuple[str, ...] = Field(
        description="What was chosen or turned in the picture, and what will not look good"
    )


class IceServersAnswer(BaseModel):
    """Servers that help to connect."""

    iceServers: list[dict[str, str]]  # noqa: N815  the name that clients know


class OfferRequest(Settled):
    """A WebRTC offer."""

    sdp: str = Field(min_length=1, max_length=MAX_SDP, examples=[EXAMPLE_SDP])
    type: Literal["offer"]
    initialParameters: dict[str, Any] | None = Field(  # noqa: N815
        None, description="Like those sent later on the data channel", examples=[{"mirror": True}]
    )
    sessionId: str | None = Field(default=None, max_length=64, description="Continue this session")  # noqa: N815


class OfferAnswer(BaseModel):
    """The answer to an offer."""

    sdp: str
    type: Literal["answer"]
    sessionId: str  # noqa: N815


class WatchIdAnswer(BaseModel):
    """How others can watch this client's sessions."""

    watchId: str  # noqa: N815
    page: str = Field(description="A transparent page that shows only the picture, for OBS and for other pages")
    key: str = Field(description="With it, other programs, such as a stream deck, act as this client")


class WatchAnswer(BaseModel):
    """Whether there is something to watch."""

    live: bool
    iceServers: list[dict[str, str]] | None = Field(  # noqa: N815
        default=None, description="Servers that help to connect, while there is something to watch"
    )


class WatchRequest(BaseModel):
    """A viewer's WebRTC offer."""

    sdp: str = Field(min_length=1, max_length=MAX_SDP, examples=[EXAMPLE_SDP])
    type: Literal["offer"]
    opacity: bool = Field(
        default=False,
        description="While the background is transparent, send the opacity in grey beneath each picture, which is then "
        "twice as high; otherwise it is black",
    )


class WatchOfferAnswer(BaseModel):
    """The answer to a viewer's offer."""

    sdp: str
    type: Literal["answer"]
    width: int = Field(description="Of a picture without its opacity")
    height: int


class Candidate(BaseModel):
    """An address at which the client may be reached."""

    candidate: str = Field(max_length=1000, examples=["candidate:1 1 udp 2122260223 192.0.2.7 54400 typ host"])
    sdpMid: str | None = Field(default=None, max_length=32)  # noqa: N815
    sdpMLineIndex: int | None = Field(default=None, ge=0, le=64)  # noqa: N815


class CandidatesRequest(BaseModel):
    """More addresses of the client."""

    candidates: list[Candidate] = Field(max_length=64)


class SessionAnswer(BaseModel):
    """A session: its settings and figures."""

    sessionId: str  # noqa: N815
    state: Literal["opening", "connected", "detached", "closing"]
    connected: bool
    parameters: dict[str, Any]
    stats: dict[str, Any]


class PressRequest(Settled):
    """What the page is to do, as if its owner had pressed a button there."""

    press: Literal["portrait", "neutral", "record"] = Field(examples=["portrait"])
    number: int = Field(default=1, ge=1, le=9, description="Which portrait, from 1 to 9")


class PauseRequest(Settled):
    """Whether to stand still."""

    paused: bool = True


class HealthAnswer(BaseModel):
    """Whether the server is up, and whether it can animate."""

    status: Literal["healthy"]
    pipeline: Literal["not_loaded", "loading", "loaded", "error"]
    sessions: int
    max_sessions: int


class Preset(BaseModel):
    """A portrait that the page offers."""

    name: str
    url: str


class Problem(BaseModel):
    """Why a request was not served."""

    detail: str
