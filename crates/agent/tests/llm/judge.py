# Holds a conversation with tools by the vendor's own package, and prints what it has heard.
import json
import sys

task = json.load(sys.stdin)
heard = []


def openai():
    from openai import OpenAI
    from openai.lib.streaming.chat import ChatCompletionStreamState

    client = OpenAI(base_url=task["base"], api_key="none", max_retries=0)
    messages = [{"role": "system", "content": task["system"]}, {"role": "user", "content": task["prompt"]}]
    while True:
        state = ChatCompletionStreamState()
        stream = client.chat.completions.create(
            model="m", messages=messages, tools=task["tools"], max_tokens=64,
            stream=True, stream_options={"include_usage": True},
        )
        for chunk in stream:
            state.handle_chunk(chunk)
        whole = state.get_final_completion()
        message = whole.choices[0].message
        calls = [
            {"id": c.id, "name": c.function.name, "arguments": json.loads(c.function.arguments)}
            for c in message.tool_calls or []
        ]
        usage = whole.usage
        heard.append({
            "text": message.content or "", "calls": calls,
            "input": usage.prompt_tokens, "output": usage.completion_tokens,
        })
        if not calls:
            return
        sent = message.to_dict()
        sent.pop("parsed", None)
        for call in sent["tool_calls"]:
            call.pop("index", None)
            call["function"].pop("parsed_arguments", None)
        messages.append(sent)
        for call in calls:
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": task["results"][call["id"]]})


def anthropic():
    from anthropic import Anthropic

    client = Anthropic(base_url=task["base"], api_key="none", max_retries=0)
    messages = [{"role": "user", "content": [{"type": "text", "text": task["prompt"]}]}]
    while True:
        with client.messages.stream(
            model="m", max_tokens=64, system=task["system"], messages=messages, tools=task["tools"],
        ) as stream:
            whole = stream.get_final_message()
        calls = [{"id": b.id, "name": b.name, "arguments": b.input} for b in whole.content if b.type == "tool_use"]
        usage = whole.usage
        cached = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
        heard.append({
            "text": "".join(b.text for b in whole.content if b.type == "text"), "calls": calls,
            "input": usage.input_tokens + cached, "output": usage.output_tokens,
        })
        if not calls:
            return
        messages.append({"role": "assistant", "content": [b.to_dict() for b in whole.content]})
        results = [
            {"type": "tool_result", "tool_use_id": c["id"], "content": task["results"][c["id"]]} for c in calls
        ]
        messages.append({"role": "user", "content": results})


{"openai": openai, "anthropic": anthropic}[task["dialect"]]()
json.dump(heard, sys.stdout)
