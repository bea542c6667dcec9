// The JavaScript library against a broker: every case prints its name, the first failure ends it.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const folder = process.argv[2];
const require = createRequire(folder);
const { default: OpenAI } = require("openai");
const { version } = JSON.parse(readFileSync(`${folder}/node_modules/openai/package.json`, "utf8"));

const baseURL = `${process.env.RINGMAIN_HTTP}/v1`;
const client = new OpenAI({ baseURL, apiKey: "unused" });
const model = "tiny";
const asked = (content) => [{ role: "user", content }];
const log = async () => {
  const lines = await (await fetch(`${process.env.RINGMAIN_SIM}/sim/log`)).text();
  return lines.trim().split("\n").filter(Boolean).map((line) => JSON.parse(line));
};

async function textOf(stream) {
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
  return text;
}

const cases = {
  async chat_plain_and_stream() {
    const messages = asked("[[sim n=100 seed=1]]");
    const whole = await client.chat.completions.create({ model, messages });
    const stream = await client.chat.completions.create({ model, messages, stream: true });
    assert.equal(await textOf(stream), whole.choices[0].message.content);
    assert.equal(whole.usage.completion_tokens, 100);
  },
  async tools() {
    const messages = asked("[[sim n=1 tools=2]]");
    const whole = await client.chat.completions.create({ model, messages });
    assert.equal(whole.choices[0].message.tool_calls.length, 2);
  },
  async embeddings() {
    const input = ["a", "日本語 👩‍👩‍👧‍👦"];
    const packed = await client.embeddings.create({ model, input, dimensions: 8 });
    const plain = await client.embeddings.create({
      model, input, dimensions: 8, encoding_format: "float",
    });
    assert.equal(packed.data[1].embedding.length, 8);
    plain.data[1].embedding.forEach((value, at) => {
      assert.ok(Math.abs(value - packed.data[1].embedding[at]) < 1e-5);
    });
  },
  async text_of_the_world() {
    const messages = [{ role: "system", content: "日本語 👩‍👩‍👧‍👦 é" }, ...asked("[[sim n=40 seed=2]]")];
    const whole = await client.chat.completions.create({ model, messages });
    const stream = await client.chat.completions.create({ model, messages, stream: true });
    assert.equal(await textOf(stream), whole.choices[0].message.content);
    assert.match(whole.choices[0].message.content, /[\u{10000}-\u{10ffff}]/u);
  },
  async tools_streamed() {
    const messages = asked("[[sim n=1 tools=2]]");
    const stream = await client.chat.completions.create({ model, messages, stream: true });
    const calls = [];
    for await (const chunk of stream) {
      for (const call of chunk.choices[0]?.delta?.tool_calls ?? []) {
        calls[call.index] = (calls[call.index] ?? "") + (call.function?.arguments ?? "");
      }
    }
    assert.equal(calls.length, 2);
    calls.forEach((text) => JSON.parse(text));
  },
  async models() {
    const ids = [];
    for await (const found of client.models.list()) ids.push(found.id);
    assert.deepEqual(ids, [model, "claude"]);
    assert.equal((await client.models.retrieve(model)).id, model);
    await assert.rejects(client.models.retrieve("tinny"), OpenAI.NotFoundError);
  },
  async errors() {
    const unknown = client.chat.completions.create({ model: "tinny", messages: asked("x") });
    await assert.rejects(unknown, (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError);
      return error.code === "UnknownRoute";
    });
    const messages = asked("[[sim n=9 gap_us=2000 fault=close_early at=3]]");
    const broken = await client.chat.completions.create({ model, messages, stream: true });
    await assert.rejects(textOf(broken));
  },
  async retries_do_not_multiply() {
    const before = (await log()).length;
    const messages = asked("[[sim status=503]]");
    await assert.rejects(client.chat.completions.create({ model, messages }, { maxRetries: 5 }));
    const attempts = (await log()).length - before;
    assert.ok(attempts > 1 && attempts <= 4, `${attempts} attempts`);
  },
  async cancellation() {
    const messages = asked("[[sim n=100000 gap_us=2000 id=js-left]]");
    const stream = await client.chat.completions.create({ model, messages, stream: true });
    for await (const _ of stream) break;
    for (let round = 0; round < 200; round += 1) {
      const left = (await log()).find((record) => record.plan?.script?.id === "js-left");
      if (left.ended) return assert.equal(left.ended.how, "ClientGone");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    assert.fail("the provider still sends");
  },
  async readme() {
    const text = readFileSync(process.env.RINGMAIN_README, "utf8");
    const line = text.match(/^\| JavaScript \| `(.+)` \|$/m)[1];
    const address = new URL(process.env.RINGMAIN_HTTP).host;
    const made = new Function("OpenAI", `return ${line.replace("127.0.0.1:8117", address)}`)(OpenAI);
    assert.equal((await made.chat.completions.create({ model, messages: asked("hi") })).object,
      "chat.completion");
  },
  async many_streams() {
    const one = async (n) => {
      const messages = asked(`[[sim n=20 gap_us=5000 id=js${n}]]`);
      return textOf(await client.chat.completions.create({ model, messages, stream: true }));
    };
    const texts = await Promise.all(Array.from({ length: 200 }, (_, n) => one(n)));
    assert.equal(new Set(texts).size, 200);
  },
};

console.log(`node ${process.version}: openai ${version}`);
for (const [name, run] of Object.entries(cases)) {
  const start = performance.now();
  await run();
  console.log(`  ${name}: ok, ${Math.round(performance.now() - start)} ms`);
}
console.log(`node: ${Object.keys(cases).length} cases passed`);
process.exit(0);
