"""MLflow's own scoring server for many models at once: python scoring_reference.py MODELS.

Each model is served by the application that MLflow makes for it, mounted under
the folder's name. Prints the port once it listens.
"""

import os
import socket
import sys

os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite://")

import uvicorn
from mlflow.pyfunc import scoring_server
from starlette.applications import Starlette
from starlette.routing import Mount


def main():
    folder = sys.argv[1]
    routes = []
    for name in sorted(os.listdir(folder)):
        model = scoring_server.load_model_with_mlflow_config(os.path.join(folder, name))
        routes.append(Mount("/" + name, app=scoring_server.init(model)))
    # asyncio turns Nagle's algorithm off only for a socket that says TCP.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    print(sock.getsockname()[1], flush=True)
    config = uvicorn.Config(Starlette(routes=routes), log_level="critical", access_log=False, timeout_keep_alive=600)
    uvicorn.Server(config).run(sockets=[sock])


if __name__ == "__main__":
    main()
