"""Requests and answers of the REST interface."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from personalive.config import MAX_SIZE, MIN_SIZE, SIZE_STEP
from personalive.live.core.parameters import MAX_SEED
from personalive.live.transport.offer import MAX_SDP

EXAMPLE_SDP = "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n…"


class LoadParams(BaseModel):
    """Size of the output and seed of the noise; what else a client sends is left out."""

    width: int | None = Field(default=None, ge=MIN_SIZE, le=MAX_SIZE, multiple_of=SIZE_STEP, examples=[512])
    height: int | None = Field(default=None, ge=MIN_SIZE, le=MAX_SIZE, multiple_of=SIZE_STEP, examples=[512])
    seed: int = Field(default=42, ge=0, le=MAX_SEED)


class LoadRequest(BaseModel):
    """Which pipeline to load, and how."""

    pipeline_id: Literal["personalive"] = "personalive"
    load_params: LoadParams = Field(default_factory=lambda: LoadParams())
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"pipeline_id": "personalive", "load_params": {"width": 512, "height": 512, "seed": 42}}]
        }
    )


class MessageAnswer(BaseModel):
    """A sentence about what happens now."""

    message: str


class StatusAnswer(BaseModel):
    """How far loading is."""

    status: Literal["not_loaded", "loading", "loaded", "error"]
    pipeline_id: str | None = None
    load_params: dict[str, Any] | None = None
    stage: str | None = Field(default=None, description="What is being done while loading")
    error: str | None = None


class ReferenceAnswer(BaseModel):
    """What became of a portrait."""

    success: bool
    message: str


class IceServersAnswer(BaseModel):
    """Servers that help to connect."""

    iceServers: list[dict[str, str]]  # noqa: N815  the name that clients know


class OfferRequest(BaseModel):
    """A WebRTC offer."""

    sdp: str = Field(min_length=1, max_length=MAX_SDP, examples=[EXAMPLE_SDP])
    type: Literal["offer"]
    initialParameters: dict[str, Any] | None = Field(  # noqa: N815
        None, description="As sent later on the data channel", examples=[{"mirror": True}]
    )
    sessionId: str | None = Field(default=None, max_length=64, description="Go on with this session")  # noqa: N815
    watch: str | None = Field(default=None, max_length=64, description="Only look at this session")


class OfferAnswer(BaseModel):
    """The answer to an offer."""

    sdp: str
    type: Literal["answer"]
    sessionId: str  # noqa: N815


class Candidate(BaseModel):
    """An address under which the client may be reached."""

    candidate: str = Field(max_length=1000, examples=["candidate:1 1 udp 2122260223 192.0.2.7 54400 typ host"])
    sdpMid: str | None = Field(default=None, max_length=32)  # noqa: N815
    sdpMLineIndex: int | None = Field(default=None, ge=0, le=64)  # noqa: N815


class CandidatesRequest(BaseModel):
    """More addresses of the client."""

    candidates: list[Candidate] = Field(max_length=64)


class ParametersRequest(BaseModel):
    """Settings to change; what is left out stays."""

    paused: bool | None = None
    mirror: bool | None = Field(default=None, description="Flip the driver left to right")
    fps: float | None = Field(
        default=None, ge=1, le=120, description="Camera frames a second that are looked at, at most"
    )
    motion_strength: float | None = Field(
        default=None, ge=0, le=2, description="0: the portrait's pose, 1: the driver's"
    )
    keyframe_threshold: float | None = Field(default=None, ge=0, le=1000)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    reset_cache: bool | None = Field(default=None, description="Forget the driver, keep the portrait")
    model_config = ConfigDict(json_schema_extra={"examples": [{"mirror": True, "motion_strength": 0.8}]})

    def given(self) -> dict[str, Any]:
        """Only what the client sent."""
        return self.model_dump(exclude_none=True)


class SessionAnswer(BaseModel):
    """A session: its settings and figures."""

    sessionId: str  # noqa: N815
    connected: bool
    parameters: dict[str, Any]
    stats: dict[str, Any]


class PauseRequest(BaseModel):
    """Whether to stand still."""

    paused: bool = True


class HealthAnswer(BaseModel):
    """Whether the server answers, and whether it can animate."""

    status: Literal["healthy"]
    pipeline: Literal["not_loaded", "loading", "loaded", "error"]
    sessions: int
    max_sessions: int
    audio: bool = Field(description="Whether the microphone can be sent back with the picture's delay")


class Preset(BaseModel):
    """A portrait that the page offers."""

    name: str
    url: str


class Problem(BaseModel):
    """Why a request was not served."""

    detail: str
