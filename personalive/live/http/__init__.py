"""The HTTP server: pages, REST interface, and what guards them."""
