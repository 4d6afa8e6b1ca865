# /// script
# requires-python = ">=3.11"
# dependencies = ["trl-weaks[servers]"]
#
# [tool.uv.sources]
# trl-weaks = { path = "..", editable = true }
# ///
"""
A model behind an OpenAI-compatible server as weak supervisor; a student trained on what it answers.

    python examples/server.py                                # asks a stand-in on the loopback, in a minute on a CPU
    python examples/server.py --base_url http://localhost:8000/v1 --served small --prompts prompts.jsonl

One supervisor answers greedily with token log-probabilities and their alternatives, the other four times at
temperature 1. Without `--base_url` a few lines below play the server. `prompts.jsonl` has the columns example_id and
prompt; a key, where the server wants one, comes from the environment variable OPENAI_API_KEY. The same command, run
again, asks only what is missing.
"""

import argparse
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from trl_weaks import (
    ServerSupervisor,
    WeakSupervisionConfig,
    WeakSupervisionTrainer,
    ask_servers,
    labels_from_completions,
    supervisor_report,
)
from trl_weaks.study.models.shipped import FOLDER

PROMPTS = [
    {"example_id": f"{room}-{state}", "prompt": f"turn the light in the {room} {state} ->"}
    for room in ("kitchen", "garage", "bedroom", "hall")
    for state in ("on", "off")
]


class StandIn(BaseHTTPRequestHandler):
    """A server that names room and state, and is not always sure of the state."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        *_, room, state, _ = asked["messages"][-1]["content"].split()
        if asked.get("seed", 0) % 4 == 3:  # one of four samples errs
            state = {"on": "off", "off": "on"}[state]
        tokens = [
            {"token": "light ", "logprob": -0.01, "top_logprobs": []},
            {"token": room, "logprob": -0.02, "top_logprobs": []},
            {
                "token": f" {state}",
                "logprob": -0.3,
                "top_logprobs": [{"token": f" {state}", "logprob": -0.3}, {"token": " dark", "logprob": -1.4}],
            },
        ]
        message = {"role": "assistant", "content": "".join(token["token"] for token in tokens)}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        choice["logprobs"] = {"content": tokens} if asked.get("logprobs") else None
        usage = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
        head = {"id": "1", "object": "chat.completion", "created": 1, "model": "stand-in"}
        body = json.dumps(head | {"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_url", help="of the server, with its /v1; by default a stand-in is started")
    parser.add_argument("--served", default="stand-in", help="the model, as the server calls it (%(default)s)")
    parser.add_argument("--prompts", help="table of example_id and prompt")
    parser.add_argument("--max_tokens", type=int, default=100_000, help="budget over all requests (%(default)s)")
    parser.add_argument("--model", help="student; by default a tiny one that comes with the package")
    parser.add_argument("--output_dir", default="student", help="folder of the student (%(default)s)")
    parser.add_argument("--max_steps", type=int, default=20, help="updates of the student (%(default)s)")
    parser.add_argument("--report_to", default="none", help="where to log: tensorboard, trackio, wandb (none)")
    options = parser.parse_args()

    url, stand_in = options.base_url, None
    if url is None:
        stand_in = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
        threading.Thread(target=stand_in.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{stand_in.server_port}/v1"
    servers = [
        ServerSupervisor(url, options.served, "greedy", top_logprobs=2),
        ServerSupervisor(url, options.served, "sampled", samples=4, temperature=1.0, logprobs=False),
    ]
    prompts = options.prompts or PROMPTS
    answers = ask_servers(servers, prompts, f"{options.output_dir}/answers", max_tokens=options.max_tokens)
    if stand_in is not None:
        stand_in.shutdown()
    labels = labels_from_completions(prompts, answers)
    sources = Counter(str(source) for row in labels["confidence_source"] for source in row)
    print(f"{len(answers)} answers, {len(labels)} rows; confidences by source: {dict(sources)}")
    print(supervisor_report(labels).markdown())

    trainer = WeakSupervisionTrainer(
        model=options.model or str(FOLDER / "student"),
        args=WeakSupervisionConfig(
            output_dir=options.output_dir,
            max_steps=options.max_steps,
            learning_rate=1e-5 if options.model else 1e-3,
            bf16=False,
            report_to=options.report_to,
        ),
        train_dataset=labels,
    )
    trainer.train()
    trainer.save_model()
    print(f"student in {options.output_dir}")


if __name__ == "__main__":
    main()
