"""The HTTP server: pages, REST interface, and what guards them."""

from personalive.extras import require

require("live")
