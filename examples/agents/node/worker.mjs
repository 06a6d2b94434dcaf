// A worker in Node: takes a list of words one by one, and goes on where it was after any crash.
import { createInterface } from "node:readline";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (type, run, rest) => process.stdout.write(JSON.stringify({ type, run: run.run, ...rest }) + "\n");

async function hear() {
  const { value, done } = await lines.next();
  return done ? process.exit(0) : JSON.parse(value); // the end of input: Windlass is gone
}

class Over extends Error {} // the run was cancelled, or belongs to somebody else by now

async function ask(type, run, rest) {
  say(type, run, rest);
  const answer = await hear();
  if (answer.type === "cancel" || answer.type === "refused") throw new Over(answer.error ?? "cancelled");
  return answer;
}

// What the last boundary of this run left; boundaries are all that survives this process.
async function recall(run) {
  let state = { todo: [], done: [] };
  for (let page = { next: 0 }; page.next !== null; ) {
    page = await ask("history", run, { after: page.next });
    state = page.boundaries?.findLast((boundary) => boundary.run === run.run)?.delta ?? state;
  }
  return state;
}

async function work(run) {
  const state = run.resumes_after === null ? { todo: [], done: [] } : await recall(run);
  state.todo.push(...run.inputs.flatMap((input) => input.text.split(/\s+/)));
  while (state.todo.length) {
    const word = state.todo.shift();
    say("progress", run, { delta: { doing: word } });
    state.done.push(word.toUpperCase()); // the work
    for (const input of (await ask("checkpoint", run)).inputs) state.todo.push(...input.text.split(/\s+/));
    if (state.todo.length) await ask("commit", run, { delta: state }); // never done again
  }
  say("result", run, { text: state.done.join(" "), delta: state });
}

for (;;) {
  const message = await hear();
  if (message.type !== "run") continue;
  await work(message).catch((why) => {
    if (!(why instanceof Over)) throw why;
    say("failed", message, { error: why.message, retryable: true });
  });
}
