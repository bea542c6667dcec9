//! `ringmain check`: is this configuration good, and what would it serve?

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::ExitCode;

use nix::unistd::{AccessFlags, access};
use ringmain_broker::Server;
use ringmain_http::HttpConfig;
use ringmain_policy::QueueBounds;
use ringmain_policy::timeouts::LimitChanges;
use ringmain_upstream::KeySource;

use crate::assemble::{Prepared, endpoint_config};
use crate::cli::ConfigFile;
use crate::commands::{Outcome, explain};
use crate::config::{Config, Identity, RouteSection, amounts, scope, server_socket};

/// Prints every fault of the file, or what it would serve.
pub fn run(args: &ConfigFile) -> Outcome {
    let config = Config::load(&args.config)?;
    // The keys are part of it: a broker would not start without them.
    Prepared::new(&config, &[])?;
    summarize(&config, &mut io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}

fn summarize(config: &Config, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}: no faults", config.path.display())?;
    let socket = server_socket(config.broker.socket.clone());
    writeln!(out, "socket   {} (mode {:04o})", socket.display(), config.broker.socket_mode)?;
    if let Some(doubt) = doubt_about(&socket) {
        writeln!(out, "         warning: {doubt}")?;
    }
    if let Some(allow) = &config.broker.allow {
        writeln!(out, "allow    {}", listed(allow))?;
    }
    summarize_http(&config.http, out)?;
    writeln!(out, "limits   {}", explain::limits(&config.limits))?;
    let usual = config.retry.policy(1);
    writeln!(out, "retry    {}", explain::retry(&usual))?;
    let QueueBounds { total, per_uid } = config.queue;
    writeln!(out, "queue    {total} requests may wait for limits, {per_uid} of each uid")?;
    for endpoint in &config.endpoints {
        let key = match &endpoint.key {
            KeySource::None => "no key".to_owned(),
            KeySource::File(path) => format!("key in {}", path.display()),
            KeySource::Env(name) => format!("key in ${name}, for development only"),
            _ => "a key".to_owned(),
        };
        let clear = match endpoint.sends_key_in_clear() {
            true => "; warning: the key is sent in clear, use https",
            false => "",
        };
        writeln!(out, "endpoint {} at {}, {key}{clear}", endpoint.name, endpoint.base_url)?;
        let made = endpoint_config(config, endpoint);
        explained(out, &explain::connections(&made))?;
        explained(out, &explain::breaker(&endpoint.rules))?;
        explained(out, &explain::extras(&made))?;
        explained(out, &own_limits(&endpoint.rules.limits))?;
    }
    for producer in &config.producers {
        let allow = producer.allow.as_deref().map(listed);
        let who = allow.map(|list| format!(" for {list}")).unwrap_or_default();
        writeln!(out, "producer {}{who}", producer.name)?;
    }
    for route in &config.routes {
        writeln!(out, "route    {} to {}", route.model, targets(route))?;
        explained(out, &own_limits(&route.rules.limits))?;
        explained(out, &route.rules.adaptive.as_ref().map(explain::adaptive).unwrap_or_default())?;
        let policy = route.retry.or(config.retry).policy(route.targets.len());
        if policy != usual {
            explained(out, &explain::retry(&policy))?;
        }
    }
    for limit in &config.rates {
        writeln!(out, "limit    {} at {}", scope(limit), amounts(limit))?;
    }
    Ok(())
}

/// A line about what was named above; nothing where there is nothing to say.
fn explained(out: &mut impl Write, text: &str) -> io::Result<()> {
    match text {
        "" => Ok(()),
        text => writeln!(out, "         {text}"),
    }
}

fn own_limits(limits: &LimitChanges) -> String {
    match explain::changes(limits).as_str() {
        "" => String::new(),
        told => format!("its own limits: {told}"),
    }
}

fn summarize_http(http: &HttpConfig, out: &mut impl Write) -> io::Result<()> {
    for listen in &http.listen {
        writeln!(out, "http     {listen}")?;
    }
    if http.ignores_keys() {
        writeln!(
            out,
            "         warning: every process of this host may call over TCP, whatever key it sends"
        )?;
    }
    for client in &http.clients {
        writeln!(out, "client   {} as uid {}", client.name, client.identity.uid)?;
    }
    Ok(())
}

/// Why `serve`, started by hand as this user, may not get its socket. A service manager that hands
/// the socket over makes it itself, so this is no fault.
fn doubt_about(socket: &Path) -> Option<String> {
    let is_socket = |meta: fs::Metadata| meta.file_type().is_socket();
    if socket.symlink_metadata().is_ok_and(|meta| !is_socket(meta)) {
        return Some(format!("{} exists and is not a socket", socket.display()));
    }
    let parent = socket.parent()?;
    let nearest = parent.ancestors().find(|folder| folder.exists())?;
    let shown = nearest.display();
    if !nearest.is_dir() {
        return Some(format!("{shown} is not a folder"));
    }
    if access(nearest, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        return Some(format!("uid {} may not write in {shown}", ringmain_shm::own_uid()));
    }
    let is_missing = nearest != parent;
    is_missing.then(|| format!("{} is missing and will be made by `serve`", parent.display()))
}

fn targets(route: &RouteSection) -> String {
    let told = route.targets.iter().map(|target| {
        let otherwise = if target.tier > 0 { "else " } else { "" };
        let server = match &target.server {
            Server::Endpoint(name) => name.clone(),
            Server::Producer(name) => format!("producer {name}"),
        };
        match &target.model {
            Some(model) => format!("{otherwise}{server} as {model}"),
            None => format!("{otherwise}{server}"),
        }
    });
    let mut text = told.collect::<Vec<_>>().join(", ");
    if let Some(allow) = &route.allow {
        text.push_str(&format!(" for {}", listed(allow)));
    }
    text
}

fn listed(allow: &[Identity]) -> String {
    let told = allow.iter().map(|identity| match identity {
        Identity::Uid(uid) => format!("uid:{uid}"),
        Identity::Gid(gid) => format!("gid:{gid}"),
    });
    told.collect::<Vec<_>>().join(", ")
}
