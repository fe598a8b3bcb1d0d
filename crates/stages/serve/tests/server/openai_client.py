"""Talks to a cupola server through the `openai` package: python openai_client.py BASE_URL KEY

The server must answer as the echo model of these tests does.
"""

import sys

import openai


def text_of(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def expect(error_type, call, **attributes):
    try:
        call()
    except error_type as error:
        for name, value in attributes.items():
            assert getattr(error, name) == value, (name, getattr(error, name), value)
        return error
    raise AssertionError(f"{error_type.__name__} was not raised")


def answers(client, model):
    messages = [{"role": "user", "content": "hello there"}]
    chat = client.chat.completions.create(model=model, messages=messages, temperature=0.5, top_p=0.9, user="me")
    assert chat.choices[0].message.content == "echo: hello there", chat
    assert chat.choices[0].message.role == "assistant" and chat.choices[0].finish_reason == "stop"
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
    assert chat.object == "chat.completion"

    several = client.chat.completions.create(model=model, messages=messages, n=2, seed=1)
    assert [c.message.content for c in several.choices] == ["echo: hello there seed=1", "echo: hello there seed=2"]

    short = client.chat.completions.create(model=model, messages=messages, max_completion_tokens=2)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 2
    stopped = client.chat.completions.create(model=model, messages=messages, stop=["there"])
    assert stopped.choices[0].message.content == "echo: hello "

    told = client.chat.completions.create(
        model=model, messages=messages, logprobs=True, top_logprobs=1, presence_penalty=1, frequency_penalty=0.5,
        logit_bias={"5": -100}, extra_body={"min_p": 0.1, "repetition_penalty": 1.1},
    )
    first = told.choices[0].logprobs.content[0]
    assert (first.token, first.logprob, first.bytes) == ("e", -0.5, [101]), first
    assert first.top_logprobs[0].token == "e", first
    columns = client.completions.create(model=model, prompt="a", logprobs=1, best_of=2).choices[0].logprobs
    assert columns.tokens == ["e", "a"] and columns.text_offset == [0, 6], columns

    text = client.completions.create(model=model, prompt=["a", "b"], echo=True, max_tokens=16)
    assert [c.text for c in text.choices] == ["aecho: a", "becho: b"], text


def streams(client, model):
    messages = [{"role": "user", "content": [{"type": "text", "text": "hello there"}]}]
    stream = client.chat.completions.create(
        model=model, messages=messages, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert text_of(chunks) == "echo: hello there"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-2].usage is None
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 4

    with client.chat.completions.stream(model=model, messages=messages) as helper:
        for _ in helper:
            pass
        assert helper.get_final_completion().choices[0].message.content == "echo: hello there"

    pieces = client.completions.create(model=model, prompt="a b", stream=True)
    assert "".join(chunk.choices[0].text for chunk in pieces) == "echo: a b"

    failing = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "FAIL now"}], stream=True
    )
    expect(openai.APIError, lambda: list(failing), message="the model broke")


def errors(client, model, base_url):
    messages = [{"role": "user", "content": "hi"}]
    stranger = openai.OpenAI(base_url=base_url, api_key="sk-wrong", max_retries=0)
    expect(openai.AuthenticationError, stranger.models.list, code="invalid_api_key", status_code=401)
    create = client.chat.completions.create
    expect(openai.NotFoundError, lambda: create(model="gpt-9", messages=messages), code="model_not_found")
    expect(openai.NotFoundError, lambda: client.models.retrieve("gpt-9"), code="model_not_found")
    expect(openai.BadRequestError, lambda: create(model=model, messages=[]), param="messages")
    expect(openai.BadRequestError, lambda: create(model=model, messages=messages, temperature="hot"), param="temperature")
    expect(openai.BadRequestError, lambda: create(model=model, messages=messages, top_logprobs=2), param="top_logprobs")
    expect(openai.BadRequestError, lambda: create(model=model, messages=messages, logit_bias={"5": 101}), param="logit_bias")
    long = [{"role": "user", "content": "x" * 2000}]
    expect(openai.BadRequestError, lambda: create(model=model, messages=long), code="context_length_exceeded")
    huge = [{"role": "user", "content": "x" * (10 << 20)}]
    expect(openai.APIStatusError, lambda: create(model=model, messages=huge), status_code=413)
    refused = [{"role": "user", "content": "REFUSE"}]
    expect(openai.RateLimitError, lambda: create(model=model, messages=refused), code="queue_full")


def main():
    base_url, key = sys.argv[1:]
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    (listed,) = client.models.list().data
    assert client.models.retrieve(listed.id).id == listed.id
    answers(client, listed.id)
    streams(client, listed.id)
    errors(client, listed.id, base_url)
    print(f"all claims hold with openai {openai.__version__}")


main()
