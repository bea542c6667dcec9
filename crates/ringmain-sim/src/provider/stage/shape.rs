//! The same answer in another form: what providers do that is right, or as good as right.

use serde_json::{Value, json};

use super::{Act, Part, StageEnd, Staged, concat, tokens};
use crate::fault::Fault;
use crate::plan::{Piece, Plan};
use crate::text::mix;

/// Most bytes of one write of an answer that is cut at random.
const SPLIT_BYTES_MAX: u64 = 7;

pub(super) fn stage(fault: Fault, plan: &Plan, mut parts: Vec<Part>) -> Staged {
    let stage = |acts: Vec<Act>| Staged::new(acts, StageEnd::Whole);
    match fault {
        Fault::Drip => return stage(cut(&parts, |_| 1)),
        Fault::Split => {
            let mut draw = mix(plan.seed);
            return stage(cut(&parts, |_| {
                draw = mix(draw);
                (draw % SPLIT_BYTES_MAX + 1) as usize
            }));
        }
        Fault::Glued => return stage(cut(&parts, |left| left)),
        _ if !plan.stream => {}
        Fault::Bom => parts[0].bytes.splice(..0, *b"\xef\xbb\xbf").for_each(drop),
        Fault::FinishOnly => parts.retain(|part| part.piece != Piece::Done),
        Fault::DoneTwice => parts.extend(parts.last().cloned()),
        Fault::AfterDone => parts.push(behind()),
        Fault::DoneUnended => {
            if let Some(done) = parts.last_mut() {
                done.bytes.truncate(done.bytes.trim_ascii_end().len());
            }
        }
        Fault::NoChoices => parts.insert(0, no_choices()),
        Fault::UsageOnFinish => usage_on_finish(&mut parts),
        _ => reword(fault, &mut parts),
    }
    let acts = lines(fault, parts).into_iter().map(Act::from);
    let mut staged = stage(acts.collect());
    if fault == Fault::FinishOnly {
        // The finish reason is the marker then.
        staged.acts.iter_mut().for_each(|act| act.is_marker = true);
    }
    staged
}

/// Everything in writes whose size `next` chooses, given what is left.
fn cut(parts: &[Part], mut next: impl FnMut(usize) -> usize) -> Vec<Act> {
    let whole = concat(parts);
    let mut acts = Vec::new();
    let mut rest = whole.as_slice();
    while !rest.is_empty() {
        let (write, left) = rest.split_at(next(rest.len()).clamp(1, rest.len()));
        acts.push(Act::write(write));
        rest = left;
    }
    if let Some(last) = acts.last_mut() {
        (last.tokens, last.is_marker) = (tokens(parts), true);
    }
    acts
}

/// The lines of events, written in another way.
fn lines(fault: Fault, mut parts: Vec<Part>) -> Vec<Part> {
    const ENDS: [(&str, &str); 5] =
        [("\n", "\r\n"), ("\r", "\r"), ("\r\n", "\n"), ("\n", "\r"), ("\r", "\r\n")];
    for (index, part) in parts.iter_mut().enumerate() {
        let Some(line) = part.bytes.strip_suffix(b"\n\n") else { continue };
        let line = String::from_utf8_lossy(line).into_owned();
        let event = match fault {
            Fault::Crlf => format!("{line}\r\n\r\n"),
            Fault::Cr => format!("{line}\r\r"),
            Fault::MixedEnds => {
                let (first, second) = ENDS[index % ENDS.len()];
                format!("{line}{first}{second}")
            }
            Fault::Comments => format!(": PROCESSING\n\n:\n{line}\n: inside\n\n"),
            Fault::MultiLine => multi_line(&line),
            Fault::NoSpace => format!("{}\n\n", line.replacen("data: ", "data:", 1)),
            Fault::OtherFields => {
                format!("id: {index}\nretry: 3000\nnothing\nwhat: ever\n{line}\n\n")
            }
            _ => continue,
        };
        part.bytes = event.into_bytes();
    }
    parts
}

/// A JSON object over three lines of data.
fn multi_line(line: &str) -> String {
    let inner = line.strip_prefix("data: {").and_then(|line| line.strip_suffix('}'));
    match inner {
        Some(inner) => format!("data: {{\ndata: {inner}\ndata: }}\n\n"),
        None => format!("{line}\n\n"),
    }
}

/// Changes the JSON of events.
fn reword(fault: Fault, parts: &mut [Part]) {
    let mut output = 0;
    for part in parts {
        output += part.tokens;
        let Some(mut event) = event_of(part) else { continue };
        match fault {
            Fault::NullContent if part.piece == Piece::Role => {
                event["choices"][0]["delta"]["content"] = Value::Null;
            }
            Fault::NewFields => {
                event["obfuscation"] = "q8Yx2".into();
                event["timings"] = json!({ "prompt_n": [1, { "deep": null }] });
            }
            Fault::UsageEmptyDelta if part.piece == Piece::Usage => {
                event["choices"] = json!([{ "index": 0, "delta": {} }]);
            }
            Fault::UsageEarly if part.piece != Piece::Usage => {
                event["usage"] = json!({
                    "prompt_tokens": 1, "completion_tokens": output, "total_tokens": output + 1,
                });
            }
            Fault::ToolEmptyList if matches!(part.piece, Piece::Text(_)) => {
                event["choices"][0]["delta"]["tool_calls"] = json!([]);
            }
            _ if matches!(part.piece, Piece::Tool { .. }) => {
                reword_tool(fault, &mut event["choices"][0]["delta"]["tool_calls"][0]);
            }
            _ => continue,
        }
        part.bytes = format!("data: {event}\n\n").into_bytes();
    }
}

fn reword_tool(fault: Fault, call: &mut Value) {
    let Some(call) = call.as_object_mut() else { return };
    match fault {
        Fault::ToolNoIndex => drop(call.remove("index")),
        Fault::ToolIndexNegative => drop(call.insert("index".to_owned(), (-1).into())),
        Fault::ToolNoId => drop(call.remove("id")),
        _ => {}
    }
}

fn usage_on_finish(parts: &mut Vec<Part>) {
    let usage = parts.iter().find(|part| part.piece == Piece::Usage).and_then(event_of);
    let finish = parts.iter_mut().find(|part| part.piece == Piece::Finish);
    let (Some(usage), Some(finish)) = (usage, finish) else { return };
    let Some(mut event) = event_of(finish) else { return };
    event["usage"] = usage["usage"].clone();
    finish.bytes = format!("data: {event}\n\n").into_bytes();
    parts.retain(|part| part.piece != Piece::Usage);
}

fn event_of(part: &Part) -> Option<Value> {
    serde_json::from_slice(part.bytes.strip_prefix(b"data: ")?).ok()
}

/// What comes first where a content filter stands before the model.
fn no_choices() -> Part {
    let filters = json!([{ "prompt_index": 0, "content_filter_results": {} }]);
    let event = json!({
        "choices": [], "created": 0, "id": "", "model": "", "object": "",
        "prompt_filter_results": filters,
    });
    Part { bytes: format!("data: {event}\n\n").into_bytes(), piece: Piece::Role, tokens: 0 }
}

/// An event that comes too late.
fn behind() -> Part {
    let delta = json!({ "choices": [{ "index": 0, "delta": { "content": "too late" } }] });
    Part { bytes: format!("data: {delta}\n\n").into_bytes(), piece: Piece::Role, tokens: 0 }
}
