"""The container's health check: exit status 0 when the Cog server is ready or busy.

`/health-check` always answers 200; what counts is the status in the answer.
"""

import json
import os
import sys
import urllib.request

with urllib.request.urlopen(f"http://127.0.0.1:{os.environ['PORT']}/health-check", timeout=4) as answer:
    status = json.load(answer)["status"]
print(status)
sys.exit(status not in ("READY", "BUSY"))
