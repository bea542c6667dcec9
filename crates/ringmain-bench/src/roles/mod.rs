//! What the child processes of a run do. Each role is told what to do by its parent as JSON and
//! answers with one line of JSON.

pub(crate) mod attach;
pub(crate) mod bare;
pub(crate) mod calls;
pub(crate) mod consume;
pub(crate) mod direct;
pub(crate) mod flood;
pub(crate) mod hop;
pub(crate) mod idle;
pub(crate) mod lane;
pub(crate) mod load;
pub(crate) mod meet;
pub(crate) mod provider;
pub(crate) mod relay;

use std::io::{BufRead, Write, stdin, stdout};
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use crate::error::{BenchError, Result, Tried};
use crate::harness::child::READY;

/// A role and what its player is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    AttachBare(attach::BareAttach),
    AttachBareServer(meet::Meet),
    AttachSession(attach::SessionAttach),
    CacheEcho(meet::Meet),
    CachePing(hop::Ping),
    Calls(calls::Calls),
    Consume(consume::Consume),
    Direct(direct::Direct),
    EventfdEcho(meet::Meet),
    EventfdPing(hop::Ping),
    Flood(flood::Flood),
    Idle(idle::Idle),
    LaneRead(lane::Transfer),
    LaneWrite(lane::Transfer),
    Produce(relay::Produce),
    ProducerAsk(relay::Ask),
    ProducerListen(relay::Listen),
    RawProvider(provider::RawProvider),
    SessionPing(hop::SessionPing),
}

/// Longest time that a role may take: a child that hangs must not hang its parent.
const ROLE_MAX: Duration = Duration::from_secs(240);

impl Role {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Role::AttachBare(_) => "attach-bare",
            Role::AttachBareServer(_) => "attach-bare-server",
            Role::AttachSession(_) => "attach-session",
            Role::CacheEcho(_) => "cache-echo",
            Role::CachePing(_) => "cache-ping",
            Role::Calls(_) => "calls",
            Role::Consume(_) => "consume",
            Role::Direct(_) => "direct",
            Role::EventfdEcho(_) => "eventfd-echo",
            Role::EventfdPing(_) => "eventfd-ping",
            Role::Flood(_) => "flood",
            Role::Idle(_) => "idle",
            Role::LaneRead(_) => "lane-read",
            Role::LaneWrite(_) => "lane-write",
            Role::Produce(_) => "produce",
            Role::ProducerAsk(_) => "producer-ask",
            Role::ProducerListen(_) => "producer-listen",
            Role::RawProvider(_) => "raw-provider",
            Role::SessionPing(_) => "session-ping",
        }
    }

    fn play(self) -> Result<()> {
        match self {
            Role::AttachBare(told) => attach::bare(&told),
            Role::AttachBareServer(meet) => attach::bare_server(&meet),
            Role::AttachSession(told) => attach::session(&told),
            Role::CacheEcho(meet) => hop::cache_echo(&meet),
            Role::CachePing(told) => hop::cache_ping(&told),
            Role::Calls(told) => calls::calls(&told),
            Role::Consume(told) => consume::consume(&told),
            Role::Direct(told) => direct::direct(&told),
            Role::EventfdEcho(meet) => hop::eventfd_echo(&meet),
            Role::EventfdPing(told) => hop::eventfd_ping(&told),
            Role::Flood(told) => flood::flood(&told),
            Role::Idle(told) => idle::idle(&told),
            Role::LaneRead(told) => lane::read(&told),
            Role::LaneWrite(told) => lane::write(&told),
            Role::Produce(told) => relay::produce(&told),
            Role::ProducerAsk(told) => relay::ask(&told),
            Role::ProducerListen(told) => relay::listen(&told),
            Role::RawProvider(told) => provider::raw_provider(&told),
            Role::SessionPing(told) => hop::session_ping(&told),
        }
    }
}

/// Plays the role that the hidden subcommand was given.
pub(crate) fn play(told: &str) -> Result<()> {
    let role: Role = serde_json::from_str(told).map_err(std::io::Error::from).tried("the role")?;
    // A parent that is gone has no use for an answer.
    set_pdeathsig(Signal::SIGKILL).tried("prctl")?;
    let name = role.name();
    std::thread::spawn(move || {
        std::thread::sleep(ROLE_MAX);
        eprintln!("ringmain: role {name} took more than {} s", ROLE_MAX.as_secs());
        std::process::exit(1);
    });
    role.play()
}

/// Tells the parent the result.
pub(crate) fn answer(result: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(result).map_err(std::io::Error::from).tried("the answer")?;
    say(&text)
}

/// Says that the role is set up.
pub(crate) fn ready() -> Result<()> {
    say(READY)
}

/// Says that the role is set up and waits for the parent's word.
pub(crate) fn ready_and_wait() -> Result<()> {
    ready()?;
    wait_for_parent()
}

/// Waits for a line from the parent.
pub(crate) fn wait_for_parent() -> Result<()> {
    let mut line = String::new();
    let read = stdin().lock().read_line(&mut line).tried("standard input")?;
    match read {
        0 => Err(BenchError::NotIntact("the parent is gone".to_owned())),
        _ => Ok(()),
    }
}

/// CPU time of this process so far, ns.
pub(crate) fn own_cpu_ns() -> Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).tried("getrusage")?;
    let ns = |time: TimeVal| {
        time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_usec().unsigned_abs() * 1_000
    };
    Ok(ns(usage.user_time()) + ns(usage.system_time()))
}

fn say(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).tried("standard output")
}
