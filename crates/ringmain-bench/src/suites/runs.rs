//! Runs that several suites share: a load through a broker, or at an address.

use std::path::Path;

use crate::error::Result;
use crate::harness::bench::Stage;
use crate::harness::procfs::cpu_ns;
use crate::harness::servers::{Broker, BrokerSetup, Provider};
use crate::harness::{Child, Place};
use crate::roles::Role;
use crate::roles::consume::{Consume, Style};
use crate::roles::direct::Direct;
use crate::roles::load::{Consumed, Load};

/// A provider and a broker before it.
#[derive(Debug)]
pub(super) struct Pair {
    pub provider: Provider,
    pub broker: Broker,
}

/// What a load cost on either side.
#[derive(Debug)]
pub(super) struct Cost {
    pub consumed: Consumed,
    /// CPU time of the process in between, ns.
    pub between_cpu_ns: u64,
}

impl Pair {
    pub(super) fn start(stage: &Stage, place: Place) -> Result<Pair> {
        let provider = Provider::start(stage, place)?;
        let broker = Broker::start(stage, BrokerSetup::new(provider.base_url(), place))?;
        Ok(Pair { provider, broker })
    }
}

impl Cost {
    /// CPU time of the consumer and of the process in between, ns per token.
    pub(super) fn host_ns_per_token(&self) -> f64 {
        let sum = self.consumed.cpu_ns + self.between_cpu_ns;
        sum as f64 / self.consumed.tokens.max(1) as f64
    }

    /// CPU time of the process in between, ns per token.
    pub(super) fn between_ns_per_token(&self) -> f64 {
        self.between_cpu_ns as f64 / self.consumed.tokens.max(1) as f64
    }

    /// CPU time of the process in between, ns per exchange.
    pub(super) fn between_ns_per_exchange(&self) -> f64 {
        self.between_cpu_ns as f64 / self.consumed.exchanges.max(1) as f64
    }
}

/// A load through a broker.
pub(super) fn through_broker(
    stage: &Stage,
    broker: &Broker,
    style: Style,
    load: &Load,
    place: Place,
) -> Result<Cost> {
    let mut child = Child::role(stage, &consume_role(broker.socket(), style, load), place)?;
    measured(&mut child, &[broker.pid()])
}

/// The role of a consumer behind a broker.
pub(super) fn consume_role(socket: &Path, style: Style, load: &Load) -> Role {
    Role::Consume(Consume { socket: socket.to_owned(), style, load: load.clone() })
}

/// A load at an address, with the processes of whatever stands there between consumer and
/// provider.
pub(super) fn at_address(
    stage: &Stage,
    base_url: &str,
    between: &[u32],
    load: &Load,
    place: Place,
) -> Result<Cost> {
    let told = Direct { base_url: base_url.to_owned(), load: load.clone() };
    let mut child = Child::role(stage, &Role::Direct(told), place)?;
    measured(&mut child, between)
}

fn measured(child: &mut Child, between: &[u32]) -> Result<Cost> {
    child.ready()?;
    let before = sum_cpu_ns(between)?;
    child.go()?;
    let consumed = child.answer()?;
    Ok(Cost { consumed, between_cpu_ns: sum_cpu_ns(between)?.saturating_sub(before) })
}

fn sum_cpu_ns(pids: &[u32]) -> Result<u64> {
    pids.iter().map(|&pid| cpu_ns(pid)).sum()
}
