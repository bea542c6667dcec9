//! What one uid may hold, and that all of it is there again when its processes are gone.

use std::time::Duration;

use ringmain_broker::counters::{Snapshot, segment_name};
use ringmain_client::{ChatBody, Code, Config, Geometry, Mode, Request, Session};
use ringmain_sim::Script;
use ringmain_sim::contract::Gauge;

use super::{Broker, eventually, wait_until};

/// Time after a client's death until everything it had must be back.
pub const RELEASE: Duration = Duration::from_secs(1);
/// The counters are written at most every quarter of a second.
pub const COUNTERS: Duration = Duration::from_millis(250);

/// A quota, with memory for just so many sessions of the usual size.
#[derive(Clone, Copy)]
pub struct Quota {
    pub sessions: u64,
    pub exchanges: u64,
}

impl Quota {
    /// Its table of a configuration.
    pub fn table(self) -> String {
        let Quota { sessions, exchanges } = self;
        let bytes = sessions * Geometry::default().session_bytes();
        format!(
            "[quota]\nsessions = {sessions}\nexchanges = {exchanges}\nsegment_bytes = {bytes}\n"
        )
    }

    /// No charge was lost on the way: the uid can have every session, every byte of segments and
    /// every exchange of its quota at once, and not one more.
    pub fn can_be_had_again(self, broker: &Broker) {
        let mut config = Config::at(broker.socket());
        config.attach_wait = Duration::from_millis(200);
        let attach = || Session::attach(config.clone());
        let mut sessions: Vec<Session> = (0..self.sessions).map(|_| attach().unwrap()).collect();
        assert_eq!(attach().unwrap_err().code(), Code::QuotaExceeded, "one session too many");

        let script = Script { head_us: Some(60_000_000), ..Script::default() };
        let request = Request::new("tiny", "/chat/completions").mode(Mode::Deltas);
        let body = ChatBody::new("tiny").message("user", script.to_string());
        let (last, others) = sessions.split_last_mut().unwrap();
        last.ping().unwrap();
        for turn in 0..self.exchanges as usize {
            let number = turn % others.len();
            others[number].submit(&request, &body).unwrap();
        }
        eventually("all are in flight", || counters(broker).exchanges == self.exchanges);
        let refused = last.ping().unwrap_err();
        assert_eq!(refused.code(), Code::QuotaExceeded, "one exchange too many");
        drop(sessions);
        at_rest(broker, "after the probe of the quotas");
    }
}

/// What the broker counts now.
pub fn counters(broker: &Broker) -> Snapshot {
    let mut found = None;
    eventually("the counters can be read", || {
        found = Snapshot::read(&segment_name(&broker.socket())).ok();
        found.is_some()
    });
    found.unwrap()
}

/// What the broker counts once nobody is there any more; nothing may be left after the time.
pub fn at_rest(broker: &Broker, when: &str) -> Vec<Gauge> {
    let is_at_rest = |counters: &Snapshot| counters.sessions == 0 && counters.exchanges == 0;
    let rests = wait_until(RELEASE + COUNTERS, || is_at_rest(&counters(broker)));
    let counters = counters(broker);
    assert!(rests, "{when} the broker still holds something: {counters:?}");
    let gauge = |name: &str, value: u64| Gauge {
        name: format!("{name} {when}"),
        rest: 0,
        value: value.cast_signed(),
    };
    vec![gauge("sessions", counters.sessions), gauge("exchanges", counters.exchanges)]
}
