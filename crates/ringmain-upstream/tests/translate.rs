//! Requests from one dialect into the other, field by field: what is kept, and what is refused.
#![allow(clippy::unwrap_used)] // a test says what it expects by failing

use ringmain_upstream::Dialect;
use ringmain_upstream::dialect::translate;
use serde_json::{Value, json};

fn to_messages(body: &Value) -> Value {
    let written = translate(Dialect::Anthropic, body.to_string().as_bytes());
    serde_json::from_slice(&written.unwrap_or_else(|e| panic!("{body}: {e}")).body).unwrap()
}

fn to_chat(body: &Value) -> Value {
    let written = translate(Dialect::OpenAi, body.to_string().as_bytes());
    serde_json::from_slice(&written.unwrap_or_else(|e| panic!("{body}: {e}")).body).unwrap()
}

/// The least chat request, with more fields.
fn chat(more: &Value) -> Value {
    with(json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}), more)
}

/// The least messages request, with more fields.
fn messages(more: &Value) -> Value {
    let least = json!({
        "model": "m",
        "max_tokens": 8192,
        "messages": [{"role": "user", "content": "hi"}],
    });
    with(least, more)
}

fn with(mut body: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// Fields that say the same in both dialects: chat, messages.
fn pairs() -> Vec<(Value, Value)> {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let tool = |more: Value| {
        let function = with(json!({"name": "f", "parameters": schema}), &more);
        let chat = json!([{"type": "function", "function": function}]);
        (chat, json!([with(json!({"name": "f", "input_schema": schema}), &more)]))
    };
    let (plain, plain_too) = tool(json!({}));
    let (full, full_too) = tool(json!({"description": "does", "strict": true}));
    let chosen = |choice: Value, too: Value| {
        (
            json!({"tools": plain, "tool_choice": choice}),
            json!({"tools": plain_too, "tool_choice": too}),
        )
    };
    let one = json!({"type": "function", "function": {"name": "f"}});
    let format = json!({"name": "answer", "schema": schema, "strict": true});
    let format = json!({"type": "json_schema", "json_schema": format});
    let format_too = json!({"format": {"type": "json_schema", "schema": schema}});
    vec![
        (json!({}), json!({})),
        (json!({"max_completion_tokens": 7}), json!({"max_tokens": 7})),
        (json!({"temperature": 0.25, "top_p": 0.5}), json!({"temperature": 0.25, "top_p": 0.5})),
        (json!({"stop": ["a", "b"]}), json!({"stop_sequences": ["a", "b"]})),
        (json!({"stream": true}), json!({"stream": true})),
        (json!({"user": "u"}), json!({"metadata": {"user_id": "u"}})),
        (json!({"service_tier": "default"}), json!({"service_tier": "standard_only"})),
        (json!({"response_format": format}), json!({"output_config": format_too})),
        (
            json!({"reasoning_effort": "high"}),
            json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
        ),
        (json!({"tools": full}), json!({"tools": full_too})),
        chosen(json!("auto"), json!({"type": "auto"})),
        chosen(json!("none"), json!({"type": "none"})),
        chosen(json!("required"), json!({"type": "any"})),
        chosen(one, json!({"type": "tool", "name": "f"})),
        (
            json!({"tools": plain, "tool_choice": "auto", "parallel_tool_calls": false}),
            json!({
                "tools": plain_too,
                "tool_choice": {"type": "auto", "disable_parallel_tool_use": true},
            }),
        ),
    ]
}

#[test]
fn fields_say_the_same_in_both_dialects() {
    for (chat_fields, message_fields) in pairs() {
        let mut expected = chat(&chat_fields);
        let with_limit = messages(&message_fields);
        assert_eq!(to_messages(&expected), with_limit);
        let limit = expected["max_completion_tokens"].as_u64().unwrap_or(8192);
        expected["max_completion_tokens"] = limit.into();
        assert_eq!(to_chat(&with_limit), expected);
    }
}

/// A conversation with everything that both can say.
fn conversation() -> (Value, Value) {
    let call = |id: &str| {
        let function = json!({"name": "f", "arguments": "{\"a\":[1,\"é\\n\"]}"});
        json!({"id": id, "type": "function", "function": function})
    };
    let used =
        |id: &str| json!({"type": "tool_use", "id": id, "name": "f", "input": {"a": [1, "é\n"]}});
    let chat = json!([
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi \"there\" 😀"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": [
            {"type": "text", "text": "what is this"},
            {"type": "image_url", "image_url": {"url": "https://host/a.png"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
        ]},
        {"role": "assistant", "content": "let me see", "tool_calls": [call("t1"), call("t2")]},
        {"role": "tool", "tool_call_id": "t1", "content": "one"},
        {"role": "tool", "tool_call_id": "t2", "content": "two"},
        {"role": "user", "content": "well?"},
        {"role": "assistant", "content": null, "tool_calls": [call("t3")]},
        {"role": "tool", "tool_call_id": "t3", "content": ""},
    ]);
    let image = |source: Value| json!({"type": "image", "source": source});
    let result =
        |id: &str, text: &str| json!({"type": "tool_result", "tool_use_id": id, "content": text});
    let messages = json!([
        {"role": "user", "content": "hi \"there\" 😀"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": [
            {"type": "text", "text": "what is this"},
            image(json!({"type": "url", "url": "https://host/a.png"})),
            image(json!({"type": "base64", "media_type": "image/png", "data": "iVBORw=="})),
        ]},
        {"role": "assistant", "content": [
            {"type": "text", "text": "let me see"}, used("t1"), used("t2"),
        ]},
        {"role": "user", "content": [
            result("t1", "one"), result("t2", "two"), {"type": "text", "text": "well?"},
        ]},
        {"role": "assistant", "content": [used("t3")]},
        {"role": "user", "content": [result("t3", "")]},
    ]);
    (chat, messages)
}

#[test]
fn a_conversation_goes_there_and_back() {
    let (chat_turns, message_turns) = conversation();
    let there = to_messages(&chat(&json!({"messages": chat_turns})));
    assert_eq!(there["messages"], message_turns);
    assert_eq!(there["system"], json!([{"type": "text", "text": "be brief"}]));
    assert_eq!(to_chat(&there)["messages"], chat_turns);
}

#[test]
fn what_has_no_field_of_its_own_is_put_where_it_fits() {
    // A request without a limit gets one; without a model, none.
    let body = json!({"messages": [{"role": "user", "content": "x"}]});
    let expected = json!({"max_tokens": 8192, "messages": [{"role": "user", "content": "x"}]});
    assert_eq!(to_messages(&body), expected);
    // The older names.
    let older =
        to_messages(&chat(&json!({"max_tokens": 5, "stop": "s", "safety_identifier": "u"})));
    let expected = json!({"max_tokens": 5, "stop_sequences": ["s"], "metadata": {"user_id": "u"}});
    assert_eq!(older, messages(&expected));
    // A tool without arguments.
    let bare = chat(&json!({"tools": [{"type": "function", "function": {"name": "f"}}]}));
    let schema = &to_messages(&bare)["tools"][0]["input_schema"];
    assert_eq!(*schema, json!({"type": "object", "properties": {}}));
    // One call at a time, though nothing was said about calling.
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let serial = to_messages(&chat(&json!({"tools": tools, "parallel_tool_calls": false})));
    let choice = json!({"type": "auto", "disable_parallel_tool_use": true});
    assert_eq!(serial["tool_choice"], choice);
    // The failure of a tool, and several texts.
    let result = json!({"type": "tool_result", "tool_use_id": "t", "is_error": true,
        "content": [{"type": "text", "text": "no "}, {"type": "text", "text": "file"}]});
    let turns = json!([
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "redacted_thinking", "data": "d"},
            {"type": "text", "text": "a"}, {"type": "text", "text": "b"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {}, "caller": {"type": "direct"}},
        ]},
        {"role": "user", "content": [{"type": "text", "text": "now"}, result]},
    ]);
    let system = json!([{"type": "text", "text": "one", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "two"}]);
    let chat = to_chat(&messages(&json!({"messages": turns, "system": system})));
    let call = json!({"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let expected = json!([
        {"role": "system", "content": "one\n\ntwo"},
        {"role": "assistant", "content": "ab", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t", "content": "error: no file"},
        {"role": "user", "content": "now"},
    ]);
    assert_eq!(chat["messages"], expected);
    // A budget of thinking is an effort.
    for (thinking, effort) in [
        (json!({"type": "enabled", "budget_tokens": 1024}), json!("low")),
        (json!({"type": "enabled", "budget_tokens": 10_000}), json!("medium")),
        (json!({"type": "enabled", "budget_tokens": 32_000}), json!("high")),
        (json!({"type": "adaptive"}), Value::Null),
        (json!({"type": "disabled"}), json!("none")),
    ] {
        let written = to_chat(&messages(&json!({"thinking": thinking})));
        assert_eq!(written["reasoning_effort"], effort, "{thinking}");
    }
}

#[test]
fn values_that_change_nothing_are_no_obstacle() {
    let neutral = json!({
        "n": 1, "logprobs": false, "top_logprobs": null, "presence_penalty": 0,
        "frequency_penalty": 0.0, "logit_bias": {}, "store": false, "metadata": null,
        "modalities": ["text"], "response_format": {"type": "text"}, "seed": null,
        "prompt_cache_key": "k", "stream_options": {"include_obfuscation": false},
    });
    assert_eq!(to_messages(&chat(&neutral)), messages(&json!({})));
    // An answer as a client library repeats it.
    let repeated = json!([{"role": "user", "content": "hi"}, {
        "role": "assistant", "content": "x", "refusal": null, "annotations": [], "audio": null,
        "function_call": null, "tool_calls": null, "reasoning_content": "hm",
    }, {"role": "user", "content": "go on"}]);
    let written = to_messages(&chat(&json!({"messages": repeated})));
    assert_eq!(written["messages"][1], json!({"role": "assistant", "content": "x"}));
}

/// What is refused, and the words for it.
fn refused(endpoint: Dialect, body: &Value) -> String {
    translate(endpoint, body.to_string().as_bytes()).expect_err(&body.to_string()).to_string()
}

#[test]
fn what_a_messages_endpoint_cannot_be_told_is_refused_by_name() {
    let counterpart = "has no counterpart in the API of the endpoint";
    for field in [
        "n",
        "logprobs",
        "top_logprobs",
        "seed",
        "logit_bias",
        "presence_penalty",
        "store",
        "frequency_penalty",
        "functions",
        "function_call",
        "audio",
        "prediction",
        "metadata",
        "web_search_options",
        "verbosity",
        "some_field_of_tomorrow",
    ] {
        let body = chat(&json!({field: [2]}));
        assert_eq!(refused(Dialect::Anthropic, &body), format!("{field} {counterpart}"));
    }
    let turns = |turn: Value| json!({"messages": [{"role": "user", "content": "x"}, turn]});
    let part = |part: Value| turns(json!({"role": "user", "content": [part]}));
    let call = |arguments: &str| {
        let function = json!({"name": "f", "arguments": arguments});
        turns(json!({"role": "assistant", "tool_calls": [{"id": "t", "function": function}]}))
    };
    for (more, expected) in [
        (json!({"temperature": 1.5}), "temperature is above 1, the most that the endpoint takes"),
        (
            json!({"response_format": {"type": "json_object"}}),
            "response_format.type has no counterpart",
        ),
        (json!({"service_tier": "flex"}), "service_tier has no counterpart"),
        (json!({"modalities": ["text", "audio"]}), "modalities has no counterpart"),
        (json!({"tools": [{"type": "custom", "custom": {}}]}), "tools[0].type has no counterpart"),
        (json!({"tool_choice": {"type": "allowed_tools"}}), "tool_choice.type has no counterpart"),
        (json!({"max_tokens": "many"}), "max_tokens is not a whole number"),
        (json!({"stream": 1}), "stream is neither true nor false"),
        (json!({"messages": 1}), "messages is not a list"),
        (json!({"messages": null}), "messages is missing"),
        (turns(json!({"role": "system", "content": "y"})), "messages[1].role may be system only"),
        (turns(json!({"role": "critic", "content": "y"})), "messages[1].role has no counterpart"),
        (turns(json!({"role": "user", "content": "y", "name": "n"})), "messages[1].name has no"),
        (turns(json!({"role": "assistant"})), "messages[1].content is empty"),
        (part(json!({"type": "input_audio"})), "messages[1].content[0].type has no counterpart"),
        (part(json!({"type": "file", "file": {}})), "messages[1].content[0].type has no"),
        (
            part(json!({"type": "image_url", "image_url": {"url": "file:///x"}})),
            "messages[1].content[0].image_url.url is neither",
        ),
        (
            part(json!({"type": "image_url", "image_url": {"url": "http://x", "detail": "low"}})),
            "messages[1].content[0].image_url.detail has no counterpart",
        ),
        (
            call("{"),
            "messages[1].tool_calls[0].function.arguments is not the text of a JSON object",
        ),
        (call("[1]"), "messages[1].tool_calls[0].function.arguments is not the text"),
    ] {
        let told = refused(Dialect::Anthropic, &chat(&more));
        assert!(told.starts_with(expected), "{told:?}, not {expected:?}");
    }
}

#[test]
fn what_a_chat_endpoint_cannot_be_told_is_refused_by_name() {
    let counterpart = "has no counterpart in the API of the endpoint";
    for field in ["top_k", "container", "mcp_servers", "context_management", "tomorrow"] {
        let body = messages(&json!({field: 1}));
        assert_eq!(refused(Dialect::OpenAi, &body), format!("{field} {counterpart}"));
    }
    let turn = |role: &str, block: Value| json!({"messages": [{"role": role, "content": [block]}, {"role": "user", "content": "x"}]});
    let user = |block: Value| turn("user", block);
    let image = json!({"type": "image", "source": {"type": "url", "url": "https://x"}});
    let result = json!({"type": "tool_result", "tool_use_id": "t", "content": [image]});
    for (more, expected) in [
        (json!({"max_tokens": null}), "max_tokens is missing"),
        (json!({"tools": [{"type": "web_search_20250305"}]}), "tools[0].type has no counterpart"),
        (json!({"thinking": {"type": "newer"}}), "thinking.type has no counterpart"),
        (json!({"output_config": {"task_budget": 1}}), "output_config.task_budget has no"),
        (user(json!({"type": "document"})), "messages[0].content[0].type has no counterpart"),
        (user(json!({"type": "search_result"})), "messages[0].content[0].type has no"),
        (user(result), "messages[0].content[0].content[0] may be a text only"),
        (
            user(json!({"type": "image", "source": {"type": "file", "file_id": "f"}})),
            "messages[0].content[0].source.type has no counterpart",
        ),
        (
            turn("assistant", json!({"type": "server_tool_use", "id": "s"})),
            "messages[0].content[0].type has no counterpart",
        ),
        (turn("assistant", image), "messages[0].content holds a block that its role cannot say"),
        (turn("system", json!({})), "messages[0].role is neither user nor assistant"),
        (
            json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}),
            "messages end with one of the assistant",
        ),
    ] {
        let told = refused(Dialect::OpenAi, &messages(&more));
        assert!(told.starts_with(expected), "{told:?}, not {expected:?}");
    }
}

#[test]
fn bodies_that_could_be_read_in_two_ways_are_refused() {
    let many: Vec<String> = (0..300).map(|n| format!("\"f{n}\":1")).collect();
    for body in [
        "",
        "[]",
        "3",
        "{",
        "{\"model\":1}",
        "{\"model\":\"a\",\"model\":\"b\"}",
        "{\"messages\":[],\"messages\":[]}",
        "{\"messages\":[1]}",
        "\u{feff}{}",
        &format!("{{{}}}", many.join(",")),
    ] {
        for endpoint in [Dialect::Anthropic, Dialect::OpenAi] {
            let error = translate(endpoint, body.as_bytes()).unwrap_err().to_string();
            assert!(error.len() < 200, "{error}");
        }
    }
}
