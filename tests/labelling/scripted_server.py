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


def choice(**changes) -> dict:
    made = chat()
    return made | {"choices": [made["choices"][0] | changes]}


BROKEN = {  # ways to fail that may pass
    "busy": (429, {"error": {"message": "slow down"}}, {"retry-after": "7"}),
    "busy until a date": (429, b"", {"retry-after": "Wed, 21 Oct 2037 07:28:00 GMT"}),
    "failing": (500, {"error": {"message": "oops"}}),
    "behind a proxy": (502, b"<html>Bad Gateway</html>", {"content-type": "text/html"}),
    "overloaded": (503, b""),
    "timed out": (408, b""),
    "half a JSON": (200, b'{"id": "1", "choices": [{"index"'),
    "no JSON": (200, b"<html>hello</html>"),
    "no UTF-8": (200, b'{"choices": "\xff\xfe"}'),
    "nothing": (200, b""),
    "a stream": (200, b'data: {"choices": []}\n\ndata: [DONE]\n\n'),
    "an error that says it is none": (200, {"error": {"message": f"no {SECRET}", "code": 500}}),
    "another shape": (200, {"hello": 1}),
    "a list": (200, [chat()]),
    "no choices": (200, chat() | {"choices": []}),
    "choices that are none": (200, chat() | {"choices": None}),
    "choices that are text": (200, chat() | {"choices": "jazz"}),
    "an empty choice": (200, chat() | {"choices": [None]}),
    "no message": (200, choice(message=None)),
    "a message that is text": (200, choice(message="jazz")),
    "parts of a text": (200, chat([{"type": "text", "text": "jazz"}])),
    "half a character": (200, chat("jazz \ud83d")),
    "usage that is no number": (200, chat() | {"usage": {"prompt_tokens": "many", "completion_tokens": 1}}),
    "gone": "gone",
    "cut in the middle": "cut",
}


class Server:
    """`reply(body, count)` -> (status, bytes or dict, headers), or one of these ways to fail:

    - `"gone"`: the connection is closed without an answer;
    - `"cut"`: it is closed in the middle of one;
    - `"silent"`: nothing comes until the client gives up.

    Attributes:
        requests: path, body and authorization of each. `seen`: how often each prompt was asked.
        models: what `/v1/models` lists, where `listing` is no other answer.
    """

    def __init__(self, reply, models=("m",), listing=None):
        self.requests, self.seen, self.models, self.over = [], Counter(), list(models), threading.Event()
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append((self.path, None, self.headers.get("authorization")))
                data = [{"id": model, "object": "model"} for model in outer.models]
                self.reply(listing or (200, {"object": "list", "data": data}))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                asked = body.get("prompt") or body["messages"][-1]["content"]
                with lock:
                    outer.seen[asked] += 1
                    outer.requests.append((self.path, body, self.headers.get("authorization")))
                    count = outer.seen[asked]
                self.reply(reply(body, count))

            def reply(self, answer):
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
