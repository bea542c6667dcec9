//! The `[http]` table and the `[[client]]` tables: where HTTP is listened for, and who may call.

use std::ops::RangeInclusive;
use std::time::Duration;

use ringmain_http::{Client, HttpConfig, KeyHash, Listen};
use ringmain_policy::ExchangeLimits;

use super::broker::BrokerSection;
use super::endpoint::check_name;
use super::identity;
use super::section::{Section, wrong_type};

/// What the limit of a body may be.
const BODY_SIZES: RangeInclusive<u64> = 1 << 10..=1 << 30;
/// Most addresses to listen on.
const LISTEN_MAX: usize = 16;
/// Most clients: all their keys are compared with each request's.
const CLIENTS_MAX: usize = 1024;
/// Most further header fields that are passed on; a head has 32 in all.
const FORWARDED_MAX: usize = 16;

/// Reads the tables. Without `[http]` nothing is listened for.
pub(super) fn read(
    table: Option<Section<'_>>,
    clients: Vec<Section<'_>>,
    broker: &BrokerSection,
    limits: &ExchangeLimits,
) -> HttpConfig {
    let mut config = HttpConfig::default();
    config.socket_mode = broker.socket_mode;
    config.socket_group = broker.socket_group;
    config.slow_consumer = limits.slow_consumer;
    if clients.len() > CLIENTS_MAX {
        let sentence = format!("is one of {}, at most {CLIENTS_MAX} are possible", clients.len());
        clients[CLIENTS_MAX].fault(clients[CLIENTS_MAX].span(), "", sentence);
    }
    config.clients = read_clients(clients);
    if let Some(table) = table {
        read_table(table, &mut config);
    }
    config
}

fn read_table(mut table: Section<'_>, config: &mut HttpConfig) {
    config.listen = read_listen(&mut table);
    let allow_remote = table.boolean("allow_remote").unwrap_or(false);
    judge_remote(&table, config, allow_remote);
    let mode = table.parsed("socket_mode", super::broker::parse_mode);
    config.socket_mode = mode.map_or(config.socket_mode, |at| at.value);
    let group = table.parsed("socket_group", identity::gid);
    config.socket_group = group.map(|at| at.value).or(config.socket_group);
    config.hosts = texts(&mut table, "hosts", check_host);
    config.forward_headers = texts(&mut table, "forward_headers", check_header);
    if config.forward_headers.len() > FORWARDED_MAX {
        table.fault_at("forward_headers", &format!("has more than {FORWARDED_MAX} names"));
    }
    config.default_route = table.text("default_route").map(|at| at.value);
    let body_max = table.size("body_max", BODY_SIZES);
    config.body_bytes_max = body_max.unwrap_or(config.body_bytes_max);
    config.head = table.duration("head").unwrap_or(config.head);
    config.body = table.duration("body").unwrap_or(config.body);
    config.idle = table.duration("idle").unwrap_or(config.idle);
    if let Some(heartbeat) = table.duration("heartbeat") {
        config.heartbeat = Some(heartbeat).filter(|interval| *interval > Duration::ZERO);
    }
    let most = table.integer("connections", 1..=1_000_000);
    config.connections_max = most.map_or(config.connections_max, |most| most as usize);
    table.finish();
}

fn read_listen(table: &mut Section<'_>) -> Vec<Listen> {
    let elements = table.list("listen").unwrap_or_default();
    if elements.is_empty() {
        let sentence = "names no address; [http] without one does nothing";
        table.fault(table.span(), "listen", sentence);
    }
    let mut listen: Vec<Listen> = Vec::with_capacity(elements.len());
    for element in elements.into_iter().take(LISTEN_MAX) {
        let parsed = match element.get_ref().as_str() {
            Some(text) => Listen::parse(text),
            None => Err(wrong_type("text in quotes", element)),
        };
        match parsed {
            Ok(address) if listen.contains(&address) => {
                table.fault(element.span(), "listen", "is there twice");
            }
            Ok(address) => listen.push(address),
            Err(sentence) => table.fault(element.span(), "listen", sentence),
        }
    }
    listen
}

/// Other hosts may call only if the operator says so twice: that they may, and who they are.
fn judge_remote(table: &Section<'_>, config: &HttpConfig, allow_remote: bool) {
    let Some(remote) = config.listen.iter().find(|listen| listen.is_remote()) else { return };
    if !allow_remote {
        let sentence = format!(
            "{remote} can be reached from other hosts; if that is meant, say allow_remote = true \
             and name the callers as [[client]]"
        );
        table.fault_at("listen", &sentence);
    } else if config.clients.is_empty() {
        let sentence = format!("{remote} is open to everybody without a [[client]]");
        table.fault_at("allow_remote", &sentence);
    }
}

fn texts(
    table: &mut Section<'_>,
    key: &'static str,
    check: fn(&str) -> Result<String, String>,
) -> Vec<String> {
    let mut texts = Vec::new();
    for element in table.list(key).unwrap_or_default() {
        match element.get_ref().as_str().map(check) {
            Some(Ok(text)) => texts.push(text),
            Some(Err(sentence)) => table.fault(element.span(), key, sentence),
            None => table.fault(element.span(), key, wrong_type("text in quotes", element)),
        }
    }
    texts
}

/// A host without a port: requests may carry any.
fn check_host(text: &str) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    let has_port = !text.starts_with('[') && text.contains(':');
    match text {
        "" => Err("is empty".to_owned()),
        _ if has_port || !text.chars().all(is_name) => {
            Err(format!("{text:?} is not a host such as \"gpu.lan\", without a port"))
        }
        _ => Ok(text.to_ascii_lowercase()),
    }
}

fn check_header(text: &str) -> Result<String, String> {
    let name = text.to_ascii_lowercase();
    let mut head = ringmain_wire::RequestHead::new("x", "/x");
    head.headers = vec![(&name, "")];
    match head.encode(&mut Vec::new()) {
        Ok(()) => Ok(name),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads all clients; names and keys must differ.
fn read_clients(tables: Vec<Section<'_>>) -> Vec<Client> {
    let mut clients: Vec<Client> = Vec::with_capacity(tables.len());
    for mut table in tables.into_iter().take(CLIENTS_MAX) {
        let name = table.required_text("name");
        if let Some(name) = &name {
            table.rename(format!("client {:?}", name.value));
            if let Err(sentence) = check_name(&name.value) {
                table.fault(name.span.clone(), "name", sentence);
            }
            if clients.iter().any(|client| client.name == name.value) {
                table.fault(name.span.clone(), "name", "is already the name of another client");
            }
        }
        let key = table.parsed("key", |text| text.parse::<KeyHash>());
        if !table.has("key") {
            table.fault(table.span(), "key", "is required and missing");
        }
        let user = table.parsed("user", identity::uid).map(|at| at.value);
        if let Some(key) = key {
            let name = name.map(|name| name.value).unwrap_or_default();
            let client = match user {
                Some(uid) => Client::of_user(uid, name, key.value),
                None => Client::alone(name, key.value),
            };
            if clients.iter().any(|client| client.key == key.value) {
                table.fault(key.span, "key", "is already the key of another client");
            } else if user.is_none() && is_charged(&clients, &client) {
                let sentence = "would be charged as another client: make another key";
                table.fault(key.span, "key", sentence);
            }
            clients.push(client);
        }
        table.finish();
    }
    clients
}

/// Whether the uid of a client stands for one of these already.
fn is_charged(clients: &[Client], client: &Client) -> bool {
    clients.iter().any(|other| other.identity.uid == client.identity.uid)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn read(text: &str) -> Result<HttpConfig, String> {
        let base = "[[endpoint]]\nname = \"a\"\nbase_url = \"http://127.0.0.1:9/v1\"\n";
        let parsed = Config::parse(Path::new("t.toml"), &format!("{base}{text}"));
        parsed.map(|config| config.http).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_listened_for_unless_asked() {
        assert!(read("").unwrap().listen.is_empty());
        let config =
            read("[http]\nlisten = [\"127.0.0.1:0\", \"unix:/tmp/x\"]\nheartbeat = \"0s\"");
        let config = config.unwrap();
        assert_eq!((config.listen.len(), config.heartbeat), (2, None));
    }

    #[test]
    fn other_hosts_need_two_words() {
        let open = "[http]\nlisten = [\"0.0.0.0:1\"]\n";
        assert!(read(open).unwrap_err().contains("allow_remote = true"));
        let said = format!("{open}allow_remote = true\n");
        assert!(read(&said).unwrap_err().contains("without a [[client]]"));
        let named = format!("{said}[[client]]\nname = \"a\"\nkey = {DIGEST:?}\n");
        assert_eq!(read(&named).unwrap().clients.len(), 1);
    }

    #[test]
    fn clients_are_told_apart_and_faults_are_named() {
        let client = |name: &str, rest: &str| format!("[[client]]\nname = {name:?}\n{rest}\n");
        let key = format!("key = {DIGEST:?}");
        let user = read(&client("b", &format!("{key}\nuser = \"root\""))).unwrap();
        assert_eq!(user.clients[0].identity.uid, 0);
        let twice = client("a", &key) + &client("a", &key);
        let error = read(&twice).unwrap_err();
        assert!(error.contains("another client") && error.contains("the key of"), "{error}");
        assert!(read(&client("a", "")).unwrap_err().contains("client \"a\".key: is required"));
        assert!(read(&client("a", "key = \"x\"")).unwrap_err().contains("sha256"));
        let near = "[http]\nlisten = [\"127.0.0.1:1\"]\nhost = []\n";
        assert!(read(near).unwrap_err().contains("did you mean `hosts`"));
        let forbidden = "[http]\nlisten = [\"127.0.0.1:1\"]\nforward_headers = [\"Cookie\"]\n";
        assert!(read(forbidden).unwrap_err().contains("cookie"));
    }
}
