"""Serves the LiteLLM proxy on a port that the system picks, and says which."""

import os
import socket
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
# No look-up of prices, no telemetry: this machine only.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["CONFIG_FILE_PATH"] = os.path.join(HERE, "config.yaml")
sys.dont_write_bytecode = True
sys.path.insert(0, HERE)


def main():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)

    import uvicorn
    from litellm.proxy.proxy_server import app

    port = listener.getsockname()[1]
    print(f"listening on http://127.0.0.1:{port}", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
    server.run(sockets=[listener])


main()
