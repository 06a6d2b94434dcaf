"""A worker in Python: takes a list of words one by one, and goes on where it was after any crash."""
import json, sys


class Over(Exception):
    """The run was cancelled, or belongs to somebody else by now."""


def say(kind, run, **rest):
    print(json.dumps({"type": kind, "run": run["run"], **rest}), flush=True)


def hear():
    line = sys.stdin.readline()
    return json.loads(line) if line else sys.exit(0)  # the end of input: Windlass is gone


def ask(kind, run, **rest):
    say(kind, run, **rest)
    answer = hear()
    if answer["type"] in ("cancel", "refused"):
        raise Over(answer.get("error", "cancelled"))
    return answer


def recall(run):
    """What the last boundary of this run left; boundaries are all that survives this process."""
    state, after = {"todo": [], "done": []}, 0
    while (page := ask("history", run, after=after))["next"] is not None:
        state = next((b["delta"] for b in reversed(page["boundaries"]) if b["run"] == run["run"]), state)
        after = page["next"]
    return state


def work(run):
    state = recall(run) if run["resumes_after"] is not None else {"todo": [], "done": []}
    state["todo"] += [word for each in run["inputs"] for word in each["text"].split()]
    while state["todo"]:
        word = state["todo"].pop(0)
        say("progress", run, delta={"doing": word})
        state["done"].append(word.upper())  # the work
        for each in ask("checkpoint", run)["inputs"]:  # what was said meanwhile
            state["todo"] += each["text"].split()
        if state["todo"]:
            ask("commit", run, delta=state)  # never done again
    say("result", run, text=" ".join(state["done"]), delta=state)


while message := hear():
    if message["type"] == "run":
        try:
            work(message)
        except Over as why:
            say("failed", message, error=str(why), retryable=True)
