"""An agent behind HTTP: checks who asks, streams its boundaries, and answers a repeated message only once.

Run it with HOOK_SECRET=whsec_... ; it prints its port.
"""
import base64, hmac, json, os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = base64.b64decode(os.environ["HOOK_SECRET"].removeprefix("whsec_"))
answered = {}  # by message; a real agent keeps this with its data


def is_ours(headers, body):
    """Standard Webhooks: an HMAC over id, time and body; what is older than five minutes may be a repetition."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(KEY, signed, "sha256")).decode()
    fresh = abs(time.time() - int(headers["webhook-timestamp"])) < 300
    return fresh and any(hmac.compare_digest(expected, given) for given in headers["webhook-signature"].split())


class Agent(BaseHTTPRequestHandler):
    def event(self, name, data):
        self.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if not is_ours(self.headers, body):
            return self.send_error(401)
        run, message = json.loads(body), self.headers["webhook-id"]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        if message not in answered:
            self.event("progress", {"doing": "thinking"})
            answered[message] = {"text": f"You said: {run['text']}", "delta": {"heard": run["text"]}}
        self.event("result", answered[message])

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "0"))), Agent)
print(server.server_port, flush=True)
server.serve_forever()
