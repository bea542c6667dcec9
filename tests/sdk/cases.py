"""The Python libraries against a broker: every case prints its name, the first failure ends it."""

import asyncio
import importlib.metadata
import json
import os
import re
import subprocess
import time
import unittest.mock
import urllib.request

import anthropic
import httpx2 as httpx
import openai
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

BASE = os.environ["RINGMAIN_HTTP"]
SOCKET = os.environ["RINGMAIN_HTTP_SOCKET"]
SIM = os.environ["RINGMAIN_SIM"]
README = os.environ["RINGMAIN_README"]
MODEL = "tiny"
WORLD = "日本語 한국어 👩‍👩‍👧‍👦 é"

client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="unused")


def asked(text):
    return [{"role": "user", "content": text}]


def provider_log():
    with urllib.request.urlopen(f"{SIM}/sim/log") as reply:
        return [json.loads(line) for line in reply]


def await_left(name):
    """Waits until the provider is left alone by the request of this id."""
    for _ in range(200):
        left = [r for r in provider_log() if (r["plan"] or {}).get("script", {}).get("id") == name]
        if left[0]["ended"]:
            assert left[0]["ended"]["how"] == "ClientGone", left[0]["ended"]
            return
        time.sleep(0.05)
    raise AssertionError("the provider still sends")


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def chat_plain():
    answer = client.chat.completions.create(model=MODEL, messages=asked("[[sim n=5 seed=1]]"))
    assert answer.choices[0].message.content and answer.usage.completion_tokens == 5
    assert answer._request_id.startswith("req-sim-")


def chat_stream():
    prompt = asked("[[sim n=200 seed=1]]")
    whole = client.chat.completions.create(model=MODEL, messages=prompt)
    stream = client.chat.completions.create(
        model=MODEL, messages=prompt, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 200


def no_usage_that_nobody_asked_for():
    stream = client.chat.completions.create(
        model=MODEL, messages=asked("[[sim n=3]]"), stream=True
    )
    assert all(chunk.choices for chunk in stream)


def tools():
    stream = client.chat.completions.create(
        model=MODEL,
        messages=asked("[[sim n=2 tools=2]]"),
        tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        stream=True,
    )
    calls = {}
    for chunk in stream:
        for call in chunk.choices[0].delta.tool_calls or []:
            calls[call.index] = calls.get(call.index, "") + (call.function.arguments or "")
    assert len(calls) == 2 and all(json.loads(text) is not None for text in calls.values())


def completions():
    answer = client.completions.create(model=MODEL, prompt="[[sim n=3]]")
    assert answer.choices[0].text


def embeddings():
    plain = client.embeddings.create(
        model=MODEL, input=["a", WORLD], encoding_format="float", dimensions=8
    )
    packed = client.embeddings.create(model=MODEL, input=["a", WORLD], dimensions=8)
    assert [len(item.embedding) for item in packed.data] == [8, 8]
    for a, b in zip(plain.data, packed.data):
        assert all(abs(x - y) < 1e-5 for x, y in zip(a.embedding, b.embedding))


def models():
    assert [model.id for model in client.models.list()] == [MODEL, "claude"]
    raises(openai.NotFoundError, lambda: client.models.retrieve("tinny"))
    assert client.models.retrieve(MODEL).id == MODEL


def errors():
    error = raises(
        openai.NotFoundError,
        lambda: client.chat.completions.create(model="tinny", messages=asked("x")),
    )
    assert error.code == "UnknownRoute" and "nearest" in str(error)
    assert error.request_id.startswith("rm-")
    once = client.with_options(max_retries=0)
    error = raises(
        openai.RateLimitError,
        lambda: once.chat.completions.create(
            model=MODEL, messages=asked("[[sim status=429 retry_after=200]]")
        ),
    )
    assert error.response.headers["retry-after"] == "200"
    raises(
        openai.BadRequestError,
        lambda: client.post("/audio/speech", body={"input": "x"}, cast_to=object),
    )


def a_broken_stream_raises():
    for fault in ["close_early at=3", "error_event at=3", "half_event at=3"]:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=asked(f"[[sim n=9 gap_us=2000 fault={fault}]]"),
            stream=True,
        )
        raises((openai.APIError, httpx.HTTPError, ValueError), lambda: list(stream))


def empty_answers_raise():
    once = client.with_options(max_retries=0)
    for fault in ["empty", "not_sse"]:
        raises(
            openai.InternalServerError,
            lambda: once.chat.completions.create(
                model=MODEL, messages=asked(f"[[sim n=3 fault={fault}]]"), stream=True
            ),
        )


def retries_do_not_multiply():
    before = len(provider_log())
    raises(
        openai.InternalServerError,
        lambda: client.with_options(max_retries=5).chat.completions.create(
            model=MODEL, messages=asked("[[sim status=503 id=retried]]")
        ),
    )
    attempts = len(provider_log()) - before
    assert 1 < attempts <= 4, f"{attempts} attempts"


def cancellation():
    stream = client.chat.completions.create(
        model=MODEL, messages=asked("[[sim n=100000 gap_us=2000 id=left]]"), stream=True
    )
    next(iter(stream))
    stream.close()
    await_left("left")


def many_streams():
    async def one(shared, number):
        stream = await shared.chat.completions.create(
            model=MODEL, messages=asked(f"[[sim n=20 gap_us=5000 id=m{number}]]"), stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def run():
        limits = httpx.Limits(max_connections=200)
        http = openai.DefaultAsyncHttpxClient(limits=limits)
        async with openai.AsyncOpenAI(
            base_url=f"{BASE}/v1", api_key="unused", http_client=http
        ) as shared:
            return await asyncio.gather(*(one(shared, n) for n in range(200)))

    texts = asyncio.run(run())
    assert len(set(texts)) == 200 and all(texts)


def text_of_the_world():
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "system", "content": WORLD}, *asked("[[sim n=40 seed=2]]")]
    )
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": WORLD}, *asked("[[sim n=40 seed=2]]")],
        stream=True,
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == answer.choices[0].message.content
    assert any(ord(char) > 0xFFFF for char in text), "no emoji among 40 tokens"


def unix_socket():
    transport = httpx.HTTPTransport(uds=SOCKET)
    with openai.OpenAI(
        base_url="http://ringmain/v1",
        api_key="unused",
        http_client=openai.DefaultHttpxClient(transport=transport),
    ) as local:
        assert local.chat.completions.create(model=MODEL, messages=asked("[[sim n=1]]")).choices


def stored():
    """What a provider stores is refused, and in words."""
    for call in [
        lambda: client.responses.retrieve("resp_1"),
        lambda: client.responses.cancel("resp_1"),
        lambda: client.files.list(),
        lambda: client.models.delete(MODEL),
    ]:
        error = raises(openai.APIStatusError, call)
        assert error.status_code in (400, 405) and error.message, error


chain = ChatOpenAI(model=MODEL, base_url=f"{BASE}/v1", api_key="unused")


def langchain_plain_and_stream():
    whole = chain.invoke("[[sim n=30 seed=1]]")
    chunks = [chunk.content for chunk in chain.stream("[[sim n=30 seed=1]]")]
    assert sum(1 for text in chunks if text) > 1 and "".join(chunks) == whole.content
    assert whole.usage_metadata["output_tokens"] == 30


def langchain_tools():
    def f() -> str:
        """Does something."""

    bound = chain.bind_tools([f])
    assert len(bound.invoke("[[sim n=1 tools=2]]").tool_calls) == 2
    whole = None
    for chunk in bound.stream("[[sim n=1 tools=2]]"):
        whole = chunk if whole is None else whole + chunk
    assert len(whole.tool_calls) == 2 and not whole.invalid_tool_calls


def langchain_embeddings():
    kinds = [{}, {"model_kwargs": {"encoding_format": "float"}}]
    packed, plain = [
        OpenAIEmbeddings(
            model=MODEL,
            base_url=f"{BASE}/v1",
            api_key="unused",
            check_embedding_ctx_length=False,
            dimensions=8,
            **kind,
        ).embed_documents(["a", WORLD])
        for kind in kinds
    ]
    assert [len(vector) for vector in packed] == [8, 8]
    for a, b in zip(packed, plain):
        assert all(abs(x - y) < 1e-5 for x, y in zip(a, b))


def langchain_errors_and_retries():
    other = ChatOpenAI(model="tinny", base_url=f"{BASE}/v1", api_key="unused")
    assert raises(openai.NotFoundError, lambda: other.invoke("x")).code == "UnknownRoute"
    broken = "[[sim n=9 gap_us=2000 fault=close_early at=3]]"
    raises((openai.APIError, httpx.HTTPError, ValueError), lambda: list(chain.stream(broken)))
    before = len(provider_log())
    patient = ChatOpenAI(model=MODEL, base_url=f"{BASE}/v1", api_key="unused", max_retries=5)
    raises(openai.InternalServerError, lambda: patient.invoke("[[sim status=503]]"))
    attempts = len(provider_log()) - before
    assert 1 < attempts <= 4, f"{attempts} attempts"


def langchain_cancellation():
    stream = chain.stream("[[sim n=100000 gap_us=2000 id=chain-left]]")
    next(stream)
    stream.close()
    await_left("chain-left")


def langchain_many_streams():
    async def one(number):
        parts = [c.content async for c in chain.astream(f"[[sim n=20 gap_us=5000 id=l{number}]]")]
        return "".join(parts)

    async def run():
        return await asyncio.gather(*(one(n) for n in range(200)))

    texts = asyncio.run(run())
    assert len(set(texts)) == 200 and all(texts)


def langchain_text_of_the_world():
    prompt = [("system", WORLD), ("user", "[[sim n=40 seed=2]]")]
    whole = chain.invoke(prompt).content
    assert "".join(chunk.content for chunk in chain.stream(prompt)) == whole
    assert any(ord(char) > 0xFFFF for char in whole)


claude = anthropic.Anthropic(base_url=BASE, api_key="unused", max_retries=0)


def anthropic_plain():
    message = claude.messages.create(
        model=MODEL, max_tokens=64, system=WORLD, messages=asked("[[sim n=5 seed=1]]")
    )
    assert message.content[0].text and message.usage.output_tokens == 5
    assert message.stop_reason == "end_turn"


def anthropic_stream():
    prompt = dict(model=MODEL, max_tokens=64, messages=asked("[[sim n=40 seed=2]]"))
    whole = claude.messages.create(**prompt)
    with claude.messages.stream(**prompt) as stream:
        text = "".join(stream.text_stream)
        assert stream.get_final_message().usage.output_tokens == 40
    assert text == whole.content[0].text


def anthropic_tools():
    message = claude.messages.create(
        model=MODEL,
        max_tokens=64,
        messages=asked("[[sim n=2 tools=2]]"),
        tools=[{"name": "f", "input_schema": {"type": "object"}}],
    )
    calls = [block for block in message.content if block.type == "tool_use"]
    assert len(calls) == 2 and message.stop_reason == "tool_use"


def anthropic_errors():
    error = raises(
        anthropic.NotFoundError,
        lambda: claude.messages.create(model="tinny", max_tokens=1, messages=asked("x")),
    )
    assert error.body["error"]["code"] == "UnknownRoute" and error.request_id.startswith("rm-")
    raises(
        anthropic.RateLimitError,
        lambda: claude.messages.create(
            model=MODEL, max_tokens=1, messages=asked("[[sim status=429 retry_after=200]]")
        ),
    )
    with claude.messages.stream(
        model=MODEL, max_tokens=1, messages=asked("[[sim n=9 gap_us=2000 fault=close_early at=3]]")
    ) as stream:
        raises(Exception, lambda: list(stream.text_stream))


def anthropic_models():
    assert [model.id for model in claude.models.list()] == [MODEL, "claude"]
    assert claude.models.retrieve(MODEL).id == MODEL
    raises(anthropic.NotFoundError, lambda: claude.models.retrieve("tinny"))


def anthropic_tools_streamed():
    with claude.messages.stream(
        model=MODEL,
        max_tokens=64,
        messages=asked("[[sim n=2 tools=2]]"),
        tools=[{"name": "f", "input_schema": {"type": "object"}}],
    ) as stream:
        message = stream.get_final_message()
    calls = [block for block in message.content if block.type == "tool_use"]
    assert len(calls) == 2 and all(isinstance(call.input, dict) for call in calls)


def anthropic_retries_do_not_multiply():
    before = len(provider_log())
    raises(
        anthropic.InternalServerError,
        lambda: claude.with_options(max_retries=5).messages.create(
            model=MODEL, max_tokens=1, messages=asked("[[sim status=503]]")
        ),
    )
    attempts = len(provider_log()) - before
    assert 1 < attempts <= 4, f"{attempts} attempts"


def anthropic_cancellation():
    prompt = asked("[[sim n=100000 gap_us=2000 id=claude-left]]")
    with claude.messages.stream(model=MODEL, max_tokens=64, messages=prompt) as stream:
        next(iter(stream.text_stream))
    await_left("claude-left")


def anthropic_many_streams():
    async def one(shared, number):
        prompt = asked(f"[[sim n=20 gap_us=5000 id=a{number}]]")
        async with shared.messages.stream(model=MODEL, max_tokens=64, messages=prompt) as stream:
            return "".join([text async for text in stream.text_stream])

    async def run():
        limits = httpx.Limits(max_connections=200)
        http = anthropic.DefaultAsyncHttpxClient(limits=limits)
        async with anthropic.AsyncAnthropic(
            base_url=BASE, api_key="unused", http_client=http
        ) as shared:
            return await asyncio.gather(*(one(shared, n) for n in range(200)))

    texts = asyncio.run(run())
    assert len(set(texts)) == 200 and all(texts)


def anthropic_text_of_the_world():
    prompt = dict(
        model=MODEL, max_tokens=64, system=WORLD, messages=asked("[[sim n=40 seed=2]]")
    )
    whole = claude.messages.create(**prompt).content[0].text
    with claude.messages.stream(**prompt) as stream:
        assert "".join(stream.text_stream) == whole
    assert any(ord(char) > 0xFFFF for char in whole)


def anthropic_dialect():
    """The same library at an endpoint of its own dialect: nothing is translated."""
    message = claude.messages.create(
        model="claude", max_tokens=64, messages=asked("[[sim n=5 seed=1]]")
    )
    assert message.content[0].text and message.usage.output_tokens == 5
    with claude.messages.stream(
        model="claude", max_tokens=64, messages=asked("[[sim n=40 seed=2]]")
    ) as stream:
        assert stream.get_final_message().usage.output_tokens == 40
    answer = client.chat.completions.create(model="claude", messages=asked("[[sim n=5 seed=1]]"))
    assert answer.choices[0].message.content == message.content[0].text


def readme():
    """Every line that README.md offers to these libraries and to curl works as it stands."""
    with open(README) as file:
        rows = dict(re.findall(r"^\| ([^|]+) \| `(.+)` \|$", file.read(), re.MULTILINE))
    address = BASE.removeprefix("http://")
    rows = {name: line.replace("127.0.0.1:8117", address) for name, line in rows.items()}
    made = {
        name: eval(rows[name], {**vars(openai), **vars(anthropic), "ChatOpenAI": ChatOpenAI})
        for name in ["Python", "Python, Anthropic", "LangChain"]
    }
    assert made["Python"].chat.completions.create(model=MODEL, messages=asked("hi")).choices
    assert made["LangChain"].invoke("hi").content
    claude_of = made["Python, Anthropic"]
    assert claude_of.messages.create(model=MODEL, max_tokens=9, messages=asked("hi")).content
    told = subprocess.run(rows["curl"], shell=True, check=True, capture_output=True).stdout
    assert json.loads(told)["choices"][0]["message"]["content"], told
    named = {"OPENAI_BASE_URL": f"{BASE}/v1", "ANTHROPIC_BASE_URL": BASE}
    with unittest.mock.patch.dict(os.environ, named):
        assert openai.OpenAI(api_key="unused").models.retrieve(MODEL).id == MODEL
        assert anthropic.Anthropic(api_key="unused").models.retrieve(MODEL).id == MODEL


CASES = [
    chat_plain,
    chat_stream,
    no_usage_that_nobody_asked_for,
    tools,
    completions,
    embeddings,
    models,
    errors,
    a_broken_stream_raises,
    empty_answers_raise,
    retries_do_not_multiply,
    cancellation,
    many_streams,
    text_of_the_world,
    unix_socket,
    stored,
    langchain_plain_and_stream,
    langchain_tools,
    langchain_embeddings,
    langchain_errors_and_retries,
    langchain_cancellation,
    langchain_many_streams,
    langchain_text_of_the_world,
    anthropic_plain,
    anthropic_stream,
    anthropic_tools,
    anthropic_tools_streamed,
    anthropic_errors,
    anthropic_models,
    anthropic_retries_do_not_multiply,
    anthropic_cancellation,
    anthropic_many_streams,
    anthropic_text_of_the_world,
    anthropic_dialect,
    readme,
]

if __name__ == "__main__":
    packages = ["openai", "anthropic", "langchain-openai", "httpx2"]
    print("python:", ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages))
    for case in CASES:
        start = time.monotonic()
        case()
        print(f"  {case.__name__}: ok, {(time.monotonic() - start) * 1000:.0f} ms", flush=True)
    print(f"python: {len(CASES)} cases passed")
