//! The `[[producer]]` tables: who may answer requests on this host.

use super::broker::read_allow;
use super::endpoint::check_name;
use super::identity::Identity;
use super::section::Section;

/// A name under which local processes answer requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerSection {
    /// Its name in routes, logs and heads.
    pub name: String,
    /// Who may attach under it; `None`: the broker's own uid and root.
    pub allow: Option<Vec<Identity>>,
}

/// Reads all tables; names must differ.
pub(super) fn read_all(tables: Vec<Section<'_>>) -> Vec<ProducerSection> {
    let mut producers: Vec<ProducerSection> = Vec::with_capacity(tables.len());
    for mut table in tables {
        let name = table.required_text("name");
        if let Some(name) = &name {
            table.rename(format!("producer {:?}", name.value));
            if let Err(sentence) = check_name(&name.value) {
                table.fault(name.span.clone(), "name", sentence);
            }
            if producers.iter().any(|producer| producer.name == name.value) {
                table.fault(name.span.clone(), "name", "is already the name of another producer");
            }
        }
        let allow = read_allow(&mut table);
        table.finish();
        producers
            .push(ProducerSection { name: name.map(|name| name.value).unwrap_or_default(), allow });
    }
    producers
}
