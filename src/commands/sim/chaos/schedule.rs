//! What a random run does and when: drawn from the seed before anything begins, so that the same
//! seed plays the same schedule on any machine.

use std::fmt;

use ringmain_sim::Fault;
use ringmain_sim::fault::{Place, Versions};
use ringmain_sim::text::{hash_whole, mix};

/// Time between two steps, ms: at least this, and less than twice as much.
const STEP_MS: u64 = 150;
/// One step in so many kills the broker.
const BROKER_KILLS: u64 = 40;
/// No broker is killed before this, and none so near to the end that nothing follows.
const QUIET_MS: u64 = 2_000;

/// All steps of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The steps in order.
    pub steps: Vec<Step>,
}

/// One thing that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When, from the beginning.
    pub at_ms: u64,
    /// What.
    pub what: What,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The broker is killed and started again.
    KillBroker,
    /// A process runs exchanges.
    Load(Load),
}

/// What a process of callers does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The model that it asks for.
    pub route: &'static str,
    /// What goes wrong upstream.
    pub fault: Option<Fault>,
    /// Tokens before that.
    pub at: u64,
    /// Tokens of an answer.
    pub tokens: u64,
    /// Time between them.
    pub gap_us: u64,
    /// What is delivered.
    pub mode: &'static str,
    /// Exchanges.
    pub streams: u64,
    /// How many of them at a time.
    pub concurrency: u64,
    /// Their deadline.
    pub deadline_ms: u64,
    /// Content frames before each is cancelled.
    pub cancel_after: Option<u64>,
    /// Time until the process is killed.
    pub kill_after_ms: Option<u64>,
}

impl Schedule {
    /// Draws the steps of a run of so many milliseconds.
    pub fn draw(seed: u64, length_ms: u64) -> Schedule {
        let mut draw = Draw(mix(seed));
        let mut steps = Vec::new();
        let mut at_ms = 0;
        while at_ms < length_ms {
            let may_kill = at_ms > QUIET_MS && at_ms + QUIET_MS < length_ms;
            let what = match draw.below(BROKER_KILLS) {
                0 if may_kill => What::KillBroker,
                _ => What::Load(Load::draw(&mut draw)),
            };
            steps.push(Step { at_ms, what });
            at_ms += STEP_MS + draw.below(STEP_MS);
        }
        Schedule { steps }
    }

    /// A number that two schedules share only if they are the same.
    pub fn digest(&self) -> u64 {
        hash_whole(self.to_string().as_bytes())
    }
}

impl Load {
    fn draw(draw: &mut Draw) -> Load {
        let route = ["one", "two", "spare", "limited"][draw.below(4) as usize];
        let is_http2 = route == "two";
        let faults: Vec<Fault> =
            Fault::ALL.iter().copied().filter(|f| plays(*f, is_http2)).collect();
        let fault = match draw.below(2) {
            0 => None,
            _ => Some(faults[draw.below(faults.len() as u64) as usize]),
        };
        Load {
            route,
            fault,
            at: draw.below(5),
            tokens: 1 + draw.below(40),
            gap_us: draw.below(4) * 2_000,
            mode: ["deltas", "deltas", "events", "body"][draw.below(4) as usize],
            streams: 1 + draw.below(12),
            concurrency: 1 + draw.below(4),
            deadline_ms: 300 + draw.below(3_000),
            cancel_after: (draw.below(5) == 0).then(|| draw.below(4)),
            kill_after_ms: (draw.below(6) == 0).then(|| 40 + draw.below(800)),
        }
    }

    /// The prompt of its exchanges.
    pub fn prompt(&self) -> String {
        let Load { tokens, gap_us, at, .. } = self;
        let fault = self.fault.map(|fault| format!(" fault={fault} at={at}")).unwrap_or_default();
        format!("[[sim n={tokens} gap_us={gap_us} id={{id}}{fault}]]")
    }
}

/// Whether a fault can be asked for by a prompt, and says the truth about the streams beside it:
/// GOAWAY leaves out streams that came after the one that asked for it and are answered here.
fn plays(fault: Fault, is_http2: bool) -> bool {
    let is_prompted = !matches!(fault.place(), Place::Connection | Place::Intake);
    let is_true = !matches!(fault, Fault::GoawayBefore | Fault::GoawayThenFine);
    let versions = fault.row().versions;
    is_prompted && is_true && versions != Versions::Tls && fault.is_of(is_http2)
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Step { at_ms, what } in &self.steps {
            match what {
                What::KillBroker => writeln!(f, "{at_ms} ms: kill the broker")?,
                What::Load(load) => {
                    let Load { route, mode, streams, concurrency, deadline_ms, .. } = load;
                    let prompt = load.prompt();
                    write!(f, "{at_ms} ms: {streams} x {concurrency} of {route}, {mode}, ")?;
                    write!(f, "{deadline_ms} ms, cancel {:?}, ", load.cancel_after)?;
                    writeln!(f, "kill {:?}: {prompt}", load.kill_after_ms)?;
                }
            }
        }
        Ok(())
    }
}

/// Random numbers of a seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = mix(self.0);
        // The high bits: a bias of one in 2^32 does not matter here.
        (self.0 >> 32) % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_makes_the_schedule() {
        let schedule = Schedule::draw(7, 60_000);
        assert_eq!(schedule, Schedule::draw(7, 60_000));
        assert_eq!(schedule.digest(), Schedule::draw(7, 60_000).digest());
        assert_ne!(schedule.digest(), Schedule::draw(8, 60_000).digest());
        assert!(schedule.steps.len() > 200, "{}", schedule.steps.len());
        let kills = schedule.steps.iter().filter(|step| step.what == What::KillBroker).count();
        assert!((1..30).contains(&kills), "{kills}");
        let mut faults: Vec<_> = schedule
            .steps
            .iter()
            .filter_map(|step| match &step.what {
                What::Load(load) => load.fault,
                What::KillBroker => None,
            })
            .collect();
        faults.sort_by_key(|fault| fault.name());
        faults.dedup();
        assert!(faults.len() > 50, "{}", faults.len());
    }
}
