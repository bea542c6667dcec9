//! Token counts in the spellings that providers use.

use ringmain_wire::frame::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;

/// No aliases: a provider may write both spellings, and a field that comes twice is an error. Each
/// field is read on its own: a strange one does not take the others with it.
#[derive(Deserialize)]
struct Counts<'a> {
    #[serde(borrow)]
    prompt_tokens: Told<'a>,
    #[serde(borrow)]
    input_tokens: Told<'a>,
    #[serde(borrow)]
    completion_tokens: Told<'a>,
    #[serde(borrow)]
    output_tokens: Told<'a>,
    #[serde(borrow)]
    total_tokens: Told<'a>,
    #[serde(borrow)]
    prompt_tokens_details: Told<'a>,
    #[serde(borrow)]
    input_tokens_details: Told<'a>,
    #[serde(borrow)]
    completion_tokens_details: Told<'a>,
    #[serde(borrow)]
    output_tokens_details: Told<'a>,
    #[serde(borrow)]
    prompt_cache_hit_tokens: Told<'a>,
}

type Told<'a> = Option<&'a RawValue>;

#[derive(Default, Deserialize)]
struct Details<'a> {
    #[serde(borrow)]
    cached_tokens: Told<'a>,
    #[serde(borrow)]
    cache_write_tokens: Told<'a>,
    #[serde(borrow)]
    reasoning_tokens: Told<'a>,
    #[serde(borrow)]
    thinking_tokens: Told<'a>,
}

/// A count, which some write as 5.0.
fn count(raw: Told<'_>) -> Option<u64> {
    /// Up to here every whole number has its own float.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let text = raw?.get();
    let exact = serde_json::from_str::<u64>(text).ok();
    exact.or_else(|| {
        let number = serde_json::from_str::<f64>(text).ok()?;
        let is_whole = (0.0..=EXACT_MAX).contains(&number) && number.fract() == 0.0;
        is_whole.then_some(number as u64)
    })
}

/// Details, of which none are told by what is no object.
fn details<'a>(raw: Told<'a>) -> Option<Details<'a>> {
    let text = raw?.get();
    // A list would be read field by field.
    text.starts_with('{').then(|| serde_json::from_str(text).ok())?
}

/// Reads a `usage` object; `None` when it says nothing that can be understood. Usage is told
/// beside the answer: a strange one is no reason to fail the answer.
pub(super) fn read(raw: &RawValue) -> Option<Usage> {
    let counts: Counts<'_> = serde_json::from_str(raw.get()).ok()?;
    let input = count(counts.prompt_tokens).or(count(counts.input_tokens));
    let output = count(counts.completion_tokens).or(count(counts.output_tokens));
    let total = count(counts.total_tokens);
    input.or(output).or(total)?;
    let (input, output) = (input.unwrap_or(0), output.unwrap_or(0));
    let read = details(counts.prompt_tokens_details).or(details(counts.input_tokens_details));
    let read = read.unwrap_or_default();
    let cached = count(read.cached_tokens).or(count(counts.prompt_cache_hit_tokens));
    let generated = details(counts.completion_tokens_details);
    let generated = generated.or(details(counts.output_tokens_details)).unwrap_or_default();
    Some(Usage {
        input,
        output,
        input_cached: cached.unwrap_or(0),
        input_cache_written: count(read.cache_write_tokens).unwrap_or(0),
        output_reasoning: count(generated.reasoning_tokens).unwrap_or(0),
        total: total.unwrap_or_else(|| input.saturating_add(output)),
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
struct MessageCounts<'a> {
    #[serde(borrow)]
    input_tokens: Told<'a>,
    #[serde(borrow)]
    cache_read_input_tokens: Told<'a>,
    #[serde(borrow)]
    cache_creation_input_tokens: Told<'a>,
    #[serde(borrow)]
    output_tokens: Told<'a>,
    #[serde(borrow)]
    output_tokens_details: Told<'a>,
}

impl Cumulative {
    /// Takes what a `usage` object tells; what it does not tell stays.
    pub fn add(&mut self, raw: &RawValue) {
        let Ok(told) = serde_json::from_str::<MessageCounts<'_>>(raw.get()) else { return };
        let generated = details(told.output_tokens_details).unwrap_or_default();
        self.input = count(told.input_tokens).or(self.input);
        self.cache_read = count(told.cache_read_input_tokens).or(self.cache_read);
        self.cache_written = count(told.cache_creation_input_tokens).or(self.cache_written);
        self.output = count(told.output_tokens).or(self.output);
        self.thinking = count(generated.thinking_tokens).or(self.thinking);
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

    #[test]
    fn one_strange_field_does_not_take_the_others_with_it() {
        let read = |text: &str| read(serde_json::from_str(text).unwrap()).unwrap();
        let told = read(
            r#"{"prompt_tokens":5.0,"completion_tokens":3,"total_tokens":"8",
            "prompt_tokens_details":[],"input_tokens_details":{"cached_tokens":2},
            "completion_tokens_details":{"reasoning_tokens":1.5}}"#,
        );
        let counts = (told.input, told.output, told.total, told.input_cached);
        assert_eq!((counts, told.output_reasoning), ((5, 3, 8, 2), 0));
        assert_eq!(read(r#"{"prompt_tokens":-1,"output_tokens":1e30,"total_tokens":4}"#).total, 4);
        let mut sum = Cumulative::default();
        for text in [r#"{"input_tokens":7.0,"output_tokens_details":[]}"#, r#"{"output_tokens":2}"#]
        {
            sum.add(serde_json::from_str(text).unwrap());
        }
        assert_eq!(sum.told().unwrap().total, 9);
    }
}
