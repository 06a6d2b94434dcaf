"""The smallest agent: one execution per run, the request on standard input, the answer on standard output."""
import json, sys

run = json.load(sys.stdin)
print(json.dumps({"text": f"You said: {run['text']}"}))
