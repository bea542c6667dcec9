//! Token counts in the spellings that providers use.

use ringmain_wire::frame::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;

/// No aliases: a provider may write both spellings, and a field that comes twice is an error.
#[derive(Deserialize)]
struct Counts {
    prompt_tokens: Option<u64>,
    input_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    output_tokens: Option<u64>,
    total_tokens: Option<u64>,
    prompt_tokens_details: Option<InputDetails>,
    input_tokens_details: Option<InputDetails>,
    completion_tokens_details: Option<OutputDetails>,
    output_tokens_details: Option<OutputDetails>,
    prompt_cache_hit_tokens: Option<u64>,
}

#[derive(Default, Deserialize)]
struct InputDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct OutputDetails {
    reasoning_tokens: Option<u64>,
}

/// Reads a `usage` object; `None` when it says nothing that can be understood. Usage is told
/// beside the answer: a strange one is no reason to fail the answer.
pub(super) fn read(raw: &RawValue) -> Option<Usage> {
    let counts: Counts = serde_json::from_str(raw.get()).ok()?;
    let input = counts.prompt_tokens.or(counts.input_tokens);
    let output = counts.completion_tokens.or(counts.output_tokens);
    input.or(output).or(counts.total_tokens)?;
    let (input, output) = (input.unwrap_or(0), output.unwrap_or(0));
    let details = counts.prompt_tokens_details.or(counts.input_tokens_details).unwrap_or_default();
    let cached = details.cached_tokens.or(counts.prompt_cache_hit_tokens);
    let generated = counts.completion_tokens_details.or(counts.output_tokens_details);
    let reasoning = generated.and_then(|details| details.reasoning_tokens);
    Some(Usage {
        input,
        output,
        input_cached: cached.unwrap_or(0),
        input_cache_written: details.cache_write_tokens.unwrap_or(0),
        output_reasoning: reasoning.unwrap_or(0),
        total: counts.total_tokens.unwrap_or_else(|| input.saturating_add(output)),
    })
}

/// Counts that are told more than once, each time as they stand then: the messages API.
#[derive(Debug, Default)]
pub(super) struct Cumulative {
    input: Option<u64>,
    cache_read: Option<u64>,
    cache_written: Option<u64>,
    output: Option<u64>,
    thinking: Option<u64>,
}

#[derive(Deserialize)]
struct MessageCounts {
    input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    output_tokens_details: Option<ThinkingDetails>,
}

#[derive(Deserialize)]
struct ThinkingDetails {
    thinking_tokens: Option<u64>,
}

impl Cumulative {
    /// Takes what a `usage` object tells; what it does not tell stays.
    pub fn add(&mut self, raw: &RawValue) {
        let Ok(told) = serde_json::from_str::<MessageCounts>(raw.get()) else { return };
        let thinking = told.output_tokens_details.and_then(|details| details.thinking_tokens);
        self.input = told.input_tokens.or(self.input);
        self.cache_read = told.cache_read_input_tokens.or(self.cache_read);
        self.cache_written = told.cache_creation_input_tokens.or(self.cache_written);
        self.output = told.output_tokens.or(self.output);
        self.thinking = thinking.or(self.thinking);
    }

    /// The counts; the provider counts what it read from or wrote to its cache beside the input.
    pub fn told(&self) -> Option<Usage> {
        self.input.or(self.output)?;
        let [input, read, written, output] =
            [self.input, self.cache_read, self.cache_written, self.output]
                .map(Option::unwrap_or_default);
        let input = input.saturating_add(read).saturating_add(written);
        Some(Usage {
            input,
            output,
            input_cached: read,
            input_cache_written: written,
            output_reasoning: self.thinking.unwrap_or(0),
            total: input.saturating_add(output),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_agree() {
        let read = |text: &str| read(serde_json::from_str(text).unwrap());
        let chat = r#"{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,
            "prompt_tokens_details":{"cached_tokens":2},
            "completion_tokens_details":{"reasoning_tokens":1}}"#;
        let expected = Usage {
            input: 5,
            output: 3,
            input_cached: 2,
            output_reasoning: 1,
            total: 8,
            ..Usage::default()
        };
        assert_eq!(read(chat), Some(expected));
        assert_eq!(
            read(&chat.replace("prompt_", "input_").replace("completion_", "output_")),
            Some(expected)
        );
        assert_eq!(read(r#"{"prompt_tokens":5,"total_tokens":5}"#).unwrap().total, 5);
        for strange in ["{}", "[]", "3", r#"{"prompt_tokens":-1}"#, r#"{"prompt_tokens":null}"#] {
            assert_eq!(read(strange), None, "{strange}");
        }
    }
}
