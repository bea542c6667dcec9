//! `ringmain status`: what a broker counts, read without its help.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use ringmain_broker::counters::{
    CountersError, EndpointHealth, EndpointRow, LimitRow, SessionRow, Snapshot, State, segment_name,
};
use ringmain_policy::breaker::BreakerState;
use ringmain_upstream::{Cause, PoolGauges};
use ringmain_wire::Code;
use serde_json::{Value, json};

use crate::cli::Status;
use crate::commands::Outcome;
use crate::config::client_candidates;

/// Prints the counters of the broker at the first socket that has some.
pub fn run(args: &Status) -> Outcome {
    let candidates = match &args.broker.socket {
        Some(path) => vec![path.clone()],
        None => client_candidates(),
    };
    let (socket, snapshot) = read_first(&candidates)?;
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{:#}", as_json(&socket, &snapshot))?,
        false => print(&mut out, &socket, &snapshot)?,
    }
    Ok(match lives(&snapshot) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn read_first(candidates: &[PathBuf]) -> Result<(PathBuf, Snapshot), String> {
    let mut tried = Vec::new();
    for socket in candidates {
        let name = segment_name(socket);
        if let Some(stranger) = stranger(socket, &name) {
            tried.push(format!(
                "{} (counters of uid {stranger}, not of its broker)",
                socket.display()
            ));
            continue;
        }
        match Snapshot::read(&name) {
            Ok(snapshot) => return Ok((socket.clone(), snapshot)),
            Err(CountersError::Open { source, .. }) if is_absent(&source) => {
                tried.push(format!("{} (no broker has counted here)", socket.display()));
            }
            Err(error) => tried.push(format!("{} ({error})", socket.display())),
        }
    }
    Err(format!("no counters: tried {}", tried.join(", ")))
}

/// The owner of counters that neither the owner of the socket nor root has made: anybody may have
/// taken the name while no broker ran.
fn stranger(socket: &Path, name: &str) -> Option<u32> {
    let owner = |path: &Path| fs::metadata(path).ok().map(|meta| meta.uid());
    let counters = owner(&Path::new("/dev/shm").join(name.trim_start_matches('/')))?;
    let broker = owner(socket).unwrap_or_else(ringmain_shm::own_uid);
    (counters != broker && counters != 0).then_some(counters)
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Whether the broker that counted here still runs.
fn lives(snapshot: &Snapshot) -> bool {
    snapshot.state != State::Ended && PathBuf::from(format!("/proc/{}", snapshot.pid)).exists()
}

/// A killed broker leaves its last counters behind.
fn state(snapshot: &Snapshot) -> &'static str {
    let lives = lives(snapshot);
    match snapshot.state {
        State::Serving if lives => "serving",
        State::Draining if lives => "draining",
        State::Ended => "ended",
        _ => "gone without a word; these are its last counters",
    }
}

fn print(out: &mut impl Write, socket: &std::path::Path, counts: &Snapshot) -> io::Result<()> {
    writeln!(out, "broker    {} (pid {}), {}", socket.display(), counts.pid, state(counts))?;
    let (until, now) = match lives(counts) {
        true => (now_ms(), "now"),
        false => (counts.updated_ms, "at the end"),
    };
    writeln!(out, "up        {}", up(until.saturating_sub(counts.started_ms)))?;
    writeln!(out, "sessions  {} {now}, {} in all", counts.sessions, counts.sessions_total)?;
    writeln!(out, "streams   {} {now}, {} in all", counts.exchanges, counts.exchanges_total)?;
    writeln!(out, "ended     {} well, {} in errors", counts.ended, counts.failed)?;
    writeln!(out, "content   {} frames, {} bytes", counts.content_frames, counts.content_bytes)?;
    writeln!(out)?;
    writeln!(
        out,
        "{:<24} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "endpoint", "requests", "answers", "opened", "reused", "retries", "breaker"
    )?;
    for row in &counts.endpoints {
        let (opened, reused) = (row.connections_opened, row.connections_reused);
        let (name, requests, answers) = (&row.name, row.requests, row.answers);
        let (retries, breaker) = (row.health.retries, breaker_word(&row.health));
        write!(out, "{name:<24} {requests:>10} {answers:>10} {opened:>10} {reused:>10} ")?;
        writeln!(out, "{retries:>10} {breaker:>10}")?;
    }
    print_limits(out, &counts.limits)?;
    print_pools(out, counts)?;
    print_sessions(out, counts)?;
    print_codes(out, "refused", &counts.refusals)?;
    print_codes(out, "failed", &counts.failures)
}

fn print_limits(out: &mut impl Write, limits: &[LimitRow]) -> io::Result<()> {
    if limits.is_empty() {
        return Ok(());
    }
    let heads = ["requests", "tokens", "in flight", "waiting", "refused"];
    let heads = heads.map(|head| format!("{head:>10}")).join(" ");
    writeln!(out, "\n{:<24} {heads}", "limit, what is left")?;
    for row in limits {
        let level = |level: Option<i64>| level.map_or("-".to_owned(), |level| level.to_string());
        let (requests, tokens) = (level(row.requests), level(row.tokens));
        let LimitRow { name, in_flight, waiting, refused, .. } = row;
        write!(out, "{name:<24} {requests:>10} {tokens:>10} ")?;
        writeln!(out, "{in_flight:>10} {waiting:>10} {refused:>10}")?;
    }
    Ok(())
}

/// The connections of each endpoint that has had some, and why those that went have gone.
fn print_pools(out: &mut impl Write, counts: &Snapshot) -> io::Result<()> {
    let used = counts.endpoints.iter().filter(|row| row.pool.opened > 0);
    for (at, EndpointRow { name, pool, .. }) in used.enumerate() {
        if at == 0 {
            writeln!(out)?;
            let heads = ["open", "idle", "in use", "streams", "waiting"];
            let heads = heads.map(|head| format!("{head:>10}")).join(" ");
            writeln!(out, "{:<24} {heads}  gone", "connections")?;
        }
        let numbers = [pool.open, pool.idle, pool.in_use, pool.streams, pool.waiting];
        let numbers = numbers.map(|number| format!("{number:>10}")).join(" ");
        write!(out, "{name:<24} {numbers}  ")?;
        let gone = Cause::ALL.map(|cause| (cause.name(), pool.retired(cause)));
        let gone = gone.iter().filter(|(_, count)| *count > 0);
        let gone: Vec<_> = gone.map(|(cause, count)| format!("{cause} {count}")).collect();
        write!(out, "{}", if gone.is_empty() { "none".to_owned() } else { gone.join(", ") })?;
        match (pool.full_handshakes, pool.resumed_handshakes) {
            (0, 0) => writeln!(out)?,
            (full, resumed) => writeln!(out, "; handshakes {full} full, {resumed} resumed")?,
        }
    }
    Ok(())
}

fn print_sessions(out: &mut impl Write, counts: &Snapshot) -> io::Result<()> {
    if counts.session_rows.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let heads = ["session", "uid", "pid", "streams", "in all"];
    writeln!(out, "{}", heads.map(|head| format!("{head:>10}")).join(" "))?;
    for row in &counts.session_rows {
        let (session, uid, pid) = (row.session, row.uid, row.pid);
        let (now, total) = (row.exchanges, row.exchanges_total);
        writeln!(out, "{session:>10} {uid:>10} {pid:>10} {now:>10} {total:>10}")?;
    }
    let hidden = counts.sessions.saturating_sub(counts.session_rows.len() as u64);
    match hidden {
        0 => Ok(()),
        hidden => writeln!(out, "and {hidden} more"),
    }
}

fn print_codes(out: &mut impl Write, title: &str, codes: &[(Code, u64)]) -> io::Result<()> {
    if codes.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title:<24} {:>10}", "count")?;
    for (code, count) in codes {
        writeln!(out, "{:<24} {count:>10}  {code}", code.name())?;
    }
    Ok(())
}

fn breaker_word(health: &EndpointHealth) -> &'static str {
    match health.breaker {
        BreakerState::Closed if health.resting_uids > 0 => "part open",
        BreakerState::Closed => "closed",
        BreakerState::Open => "open",
        BreakerState::HalfOpen => "half open",
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn up(ms: u64) -> String {
    let up = ms / 1000;
    let (days, hours, minutes) = (up / 86_400, up / 3_600 % 24, up / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{up} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", up % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

fn pool_json(pool: &PoolGauges) -> Value {
    let gone = Cause::ALL.map(|cause| (cause.name().to_owned(), json!(pool.retired(cause))));
    json!({
        "open": pool.open,
        "idle": pool.idle,
        "in_use": pool.in_use,
        "streams": pool.streams,
        "waiting": pool.waiting,
        "opened": pool.opened,
        "reused": pool.reused,
        "retired": gone.into_iter().collect::<Value>(),
        "full_handshakes": pool.full_handshakes,
        "resumed_handshakes": pool.resumed_handshakes,
    })
}

fn as_json(socket: &std::path::Path, counts: &Snapshot) -> Value {
    let codes = |codes: &[(Code, u64)]| -> Value {
        codes.iter().map(|(code, count)| (code.name().to_owned(), json!(count))).collect()
    };
    let endpoint = |row: &EndpointRow| {
        json!({
            "name": row.name,
            "requests": row.requests,
            "answers": row.answers,
            "connections_opened": row.connections_opened,
            "connections_reused": row.connections_reused,
            "pool": pool_json(&row.pool),
            "breaker": breaker_word(&row.health),
            "breaker_resting_uids": row.health.resting_uids,
            "breaker_opened": row.health.breaker_opened,
            "retries": row.health.retries,
            "latency_us": row.health.latency_us,
            "pending": row.health.pending,
        })
    };
    let session = |row: &SessionRow| {
        json!({
            "session": row.session,
            "uid": row.uid,
            "pid": row.pid,
            "streams": row.exchanges,
            "streams_total": row.exchanges_total,
        })
    };
    let limit = |row: &LimitRow| {
        json!({
            "name": row.name,
            "requests": row.requests,
            "tokens": row.tokens,
            "in_flight": row.in_flight,
            "waiting": row.waiting,
            "refused": row.refused,
        })
    };
    json!({
        "socket": socket,
        "pid": counts.pid,
        "state": state(counts),
        "epoch": counts.epoch,
        "started_ms": counts.started_ms,
        "updated_ms": counts.updated_ms,
        "sessions": counts.sessions,
        "sessions_total": counts.sessions_total,
        "streams": counts.exchanges,
        "streams_total": counts.exchanges_total,
        "ended": counts.ended,
        "failed": counts.failed,
        "content_frames": counts.content_frames,
        "content_bytes": counts.content_bytes,
        "endpoints": counts.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "limits": counts.limits.iter().map(limit).collect::<Vec<_>>(),
        "session_list": counts.session_rows.iter().map(session).collect::<Vec<_>>(),
        "refusals": codes(&counts.refusals),
        "failures": codes(&counts.failures),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_told_with_causes_and_handshakes() {
        let mut row = EndpointRow::default();
        row.name = "a".to_owned();
        let mut words = [0; PoolGauges::WORDS];
        // open, idle, in use, streams, waiting, opened, reused; aborted; handshakes.
        words[..8].copy_from_slice(&[3, 1, 2, 9, 4, 5, 6, 7]);
        words[PoolGauges::WORDS - 2..].copy_from_slice(&[8, 11]);
        row.pool = PoolGauges::from_words(words);
        let mut plain = EndpointRow::default();
        plain.pool.opened = 1;
        let mut counts = Snapshot::default();
        counts.endpoints = vec![row, EndpointRow::default(), plain];
        let mut out = Vec::new();
        print_pools(&mut out, &counts).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<Vec<_>> =
            text.trim().lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[1].join(" "), "a 3 1 2 9 4 aborted 7; handshakes 8 full, 11 resumed");
        assert_eq!(lines[2].join(" "), "0 0 0 0 0 none");
    }
}
