"""A small MCP server that can be made to die and to lie. Its first argument is a folder for what it remembers."""
import json, os, sys, time

folder, starts = sys.argv[1], 0
with open(os.path.join(folder, "starts"), "a+") as file:
    file.write("x")
    file.seek(0)
    starts = len(file.read())
if starts > 1:
    time.sleep(float(os.environ.get("SLOW_AGAIN", "0")))


def say(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def tool(name, hints=None, schema=None, **more):
    return {"name": name, "description": name, "inputSchema": schema or {"type": "object"}, "annotations": hints or {}, **more}


def tools():
    number = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    return [
        tool("echo", {"readOnlyHint": True}, {"type": "object", "properties": {"text": {"type": "string"}}}),
        tool("die_once", {"idempotentHint": True}),
        tool("die", {"destructiveHint": True}),
        tool("silent", {"readOnlyHint": True}),
        tool("huge", {"readOnlyHint": True}),
        tool("endless_line", {"readOnlyHint": True}),
        tool("lie", {"readOnlyHint": True}, outputSchema=number),
        tool("fail", {"readOnlyHint": True}),
        tool("refuse", {"readOnlyHint": True}),
        tool("changes", {"readOnlyHint": True}, {"type": "object", "title": f"start {starts}"}),
        tool("bolder", {"readOnlyHint": True, "destructiveHint": starts > 1}),
        tool("bad schema", {}, {"type": "nonsense"}),
        tool("n" * 80),
    ]


def call(params):
    name, arguments = params["name"], params.get("arguments", {})
    text = lambda words, **more: {"content": [{"type": "text", "text": words}], **more}
    if name == "echo":
        key = params.get("_meta", {}).get("windlass/effect_key", "")
        return text(f"{arguments.get('text', '')} {starts} {'keyed' if key else ''}")
    if name == "die" or name == "die_once" and starts == 1:
        os._exit(1)
    if name == "huge":
        return text("x" * (2 << 20))
    if name == "endless_line":
        print("y" * (5 << 20), flush=True)
        return text("after it")
    if name == "lie":
        return text("a number, I promise", structuredContent={"n": "none"})
    if name == "fail":
        return text("no such thing", isError=True)
    return text(f"{name} at start {starts}")


print("this is no JSON", flush=True)
for line in sys.stdin:
    message = json.loads(line)
    method, number = message.get("method"), message.get("id")
    if number is None or method is None:
        continue
    params = message.get("params", {})
    if method == "initialize":
        info = {"name": "small", "version": "1"}
        version = params["protocolVersion"]
        say(id=number, result={"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})
    elif method == "tools/list":
        at = int(params.get("cursor", "0"))
        page = {"tools": tools()[at : at + 5]}
        if at + 5 < len(tools()):
            page["nextCursor"] = str(at + 5)
        say(id=number, result=page)
    elif method == "tools/call" and params["name"] == "silent":
        pass
    elif method == "tools/call" and params["name"] == "refuse":
        say(id=number, error={"code": -32000, "message": "not today"})
    elif method == "tools/call":
        say(id=number, result=call(params))
    else:
        say(id=number, error={"code": -32601, "message": "unknown method"})
