"""How a session's frames travel: WebRTC, WebSocket, and the messages beside them."""

from personalive.extras import require

require("live")
