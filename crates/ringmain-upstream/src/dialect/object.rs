//! JSON objects that are taken apart field by field, until nothing is left.
//!
//! What was not taken is refused by its name, so no field of a request can get lost on its way
//! into another dialect. Values stay where they lie until they are looked at: a picture of
//! megabytes is stepped over. A field that is null counts as absent.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::refused::{Path, Refused};

/// Most fields of one object: no API has objects of more.
const FIELDS_MAX: usize = 256;

/// What is said of a field that the other dialect does not have.
pub(super) const NO_COUNTERPART: &str = "has no counterpart in the API of the endpoint";

/// An object of a request.
#[derive(Debug)]
pub(super) struct Object<'a, 'p> {
    pub path: Path<'p>,
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// A text, borrowed where it holds no escape.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Object<'a, 'static> {
    /// Reads a whole body.
    pub fn parse(body: &'a [u8]) -> Result<Object<'a, 'static>, Refused> {
        let raw = serde_json::from_slice(body).map_err(|_| Path::Root.refused("is not JSON"))?;
        Object::read(Path::Root, raw)
    }
}

impl<'a, 'p> Object<'a, 'p> {
    /// Reads the object at this place.
    pub fn read(path: Path<'p>, raw: &'a RawValue) -> Result<Object<'a, 'p>, Refused> {
        let Fields(fields) = serde_json::from_str(raw.get()).map_err(|_| {
            path.refused("is not an object of up to 256 fields that each come once")
        })?;
        Ok(Object { path, fields })
    }

    /// Takes a field; `None` when it is absent or null.
    pub fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let at = self.fields.iter().position(|(known, _)| known == name)?;
        Some(self.fields.swap_remove(at).1)
    }

    /// Takes a field that must be there.
    pub fn need(&mut self, name: &str) -> Result<&'a RawValue, Refused> {
        self.take(name).ok_or_else(|| self.refused(name, "is missing"))
    }

    /// Takes a text.
    pub fn text(&mut self, name: &str) -> Result<Option<Cow<'a, str>>, Refused> {
        let Some(raw) = self.take(name) else { return Ok(None) };
        text(Path::Field(&self.path, name), raw).map(Some)
    }

    /// Takes a text that must be there.
    pub fn need_text(&mut self, name: &str) -> Result<Cow<'a, str>, Refused> {
        self.text(name)?.ok_or_else(|| self.refused(name, "is missing"))
    }

    /// Takes a truth value.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, Refused> {
        match self.take(name).map(RawValue::get) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(self.refused(name, "is neither true nor false")),
        }
    }

    /// Takes a count.
    pub fn count(&mut self, name: &str) -> Result<Option<u64>, Refused> {
        let Some(raw) = self.take(name) else { return Ok(None) };
        let count = raw.get().parse().map_err(|_| self.refused(name, "is not a whole number"))?;
        Ok(Some(count))
    }

    /// Takes a number, as it was written.
    pub fn number(&mut self, name: &str) -> Result<Option<&'a RawValue>, Refused> {
        let Some(raw) = self.take(name) else { return Ok(None) };
        let is_number = raw.get().starts_with(|c: char| c == '-' || c.is_ascii_digit());
        if is_number { Ok(Some(raw)) } else { Err(self.refused(name, "is not a number")) }
    }

    /// Takes a list; an absent one is empty.
    pub fn list(&mut self, name: &str) -> Result<Vec<&'a RawValue>, Refused> {
        let Some(raw) = self.take(name) else { return Ok(Vec::new()) };
        list(Path::Field(&self.path, name), raw)
    }

    /// Takes fields that may be there only with a value that changes nothing.
    pub fn neutral(&mut self, fields: &[(&str, &[&str])]) -> Result<(), Refused> {
        for (name, accepted) in fields {
            let Some(raw) = self.take(name) else { continue };
            let value: String = raw.get().split_ascii_whitespace().collect();
            if !accepted.contains(&value.as_str()) {
                return Err(self.refused(name, NO_COUNTERPART));
            }
        }
        Ok(())
    }

    /// Takes fields that are hints on cost alone: the answer is the same without them.
    pub fn hints(&mut self, names: &[&str]) {
        for name in names {
            self.take(name);
        }
    }

    /// Refuses whatever was not taken.
    pub fn finish(self) -> Result<(), Refused> {
        match self.fields.first() {
            None => Ok(()),
            Some((name, _)) => {
                // The name is the caller's own: as much of it as fits a sentence.
                let name: String = name.chars().take(64).filter(|c| !c.is_control()).collect();
                Err(self.refused(&name, NO_COUNTERPART))
            }
        }
    }

    /// The refusal of one of its fields.
    pub fn refused(&self, name: &str, why: &'static str) -> Refused {
        Path::Field(&self.path, name).refused(why)
    }
}

/// A text at this place.
pub(super) fn text<'a>(path: Path<'_>, raw: &'a RawValue) -> Result<Cow<'a, str>, Refused> {
    let text = serde_json::from_str(raw.get());
    text.map(|Text(text)| text).map_err(|_| path.refused("is not a text"))
}

/// The items of a list at this place.
pub(super) fn list<'a>(path: Path<'_>, raw: &'a RawValue) -> Result<Vec<&'a RawValue>, Refused> {
    serde_json::from_str(raw.get()).map_err(|_| path.refused("is not a list"))
}

/// The fields of an object that are not null, in order.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields<'de>, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
                while let Some((Text(name), value)) = map.next_entry::<Text<'de>, &RawValue>()? {
                    let is_known = fields.iter().any(|(known, _)| *known == name);
                    if is_known || fields.len() == FIELDS_MAX {
                        return Err(serde::de::Error::custom("a field too many"));
                    }
                    fields.push((name, value));
                }
                fields.retain(|(_, value)| value.get() != "null");
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Each)
    }
}
