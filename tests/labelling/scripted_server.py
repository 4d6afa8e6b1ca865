"""An OpenAI-compatible server on the loopback that answers as a test says, badly too."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "sk-very-secret"


def chat(text="jazz", tokens=(("ja", -0.1), ("zz", -0.2)), finish="stop", **message) -> dict:
    """A chat completion; tokens with their log-probabilities, and maybe a list of alternatives."""
    content = [
        {"token": t, "logprob": p, "bytes": None, "top_logprobs": [{"token": a, "logprob": q} for a, q in top]}
        for t, p, *rest in tokens
        for top in [rest[0] if rest else ()]
    ]
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    choice["logprobs"] = {"content": content} if tokens else None
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


class Server:
    """`reply(body, count)` -> (status, bytes or dict, headers), or one of these ways to fail:

    - `"gone"`: the connection is closed without an answer;
    - `"cut"`: it is closed in the middle of one;
    - `"silent"`: nothing comes until the client gives up.

    Attributes:
        requests: path, body and authorization of each. `seen`: how often each prompt was asked.
        models: what `/v1/models` lists.
    """

    def __init__(self, reply, models=("m",)):
        self.requests, self.seen, self.models, self.over = [], Counter(), list(models), threading.Event()
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append((self.path, None, self.headers.get("authorization")))
                self.send(200, {"object": "list", "data": [{"id": m, "object": "model"} for m in outer.models]}, {})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                asked = body.get("prompt") or body["messages"][-1]["content"]
                with lock:
                    outer.seen[asked] += 1
                    outer.requests.append((self.path, body, self.headers.get("authorization")))
                    count = outer.seen[asked]
                answer = reply(body, count)
                if answer == "silent":
                    outer.over.wait(20)
                elif answer == "cut":
                    self.send(200, chat(), {}, cut=True)
                elif answer != "gone":
                    status, payload, *headers = answer
                    self.send(status, payload, headers[0] if headers else {})
                self.close_connection = True

            def send(self, status, answer, headers, cut=False):
                payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(payload)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(payload[: len(payload) // 2] if cut else payload)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def close(self):
        self.over.set()
        self.http.shutdown()
        self.http.server_close()
