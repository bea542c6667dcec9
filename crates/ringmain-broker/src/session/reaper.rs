//! Punching the segments of sessions that ended, away from the threads that serve the others.
//!
//! Punching a segment takes as long as it holds pages, up to a gigabyte of them. So one thread of
//! its own does it, and gives the quota back only then: a peer that keeps its mappings keeps none
//! of the broker's memory.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use ringmain_shm::Puncher;

use crate::account::Charge;

/// Sessions that may wait to be punched. Beyond it the one who let go punches.
const WAITING_MAX: usize = 1024;

/// What is left of a session.
pub(crate) struct Remains {
    pub session: u64,
    pub punchers: [Puncher; 2],
    /// Given back after the punching, by their drop.
    pub charges: [Charge; 2],
}

/// The way to the thread. It ends when the last clone is gone and all was punched.
#[derive(Clone)]
pub(crate) struct Reaper(SyncSender<Remains>);

impl Reaper {
    pub fn new() -> Reaper {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let thread = std::thread::Builder::new().name("reaper".to_owned());
        // Without a thread the receiver is gone, and whoever lets go of a session punches.
        if let Err(error) = thread.spawn(move || run(receiver)) {
            tracing::warn!(%error, "no thread to free the memory of sessions on");
        }
        Reaper(sender)
    }

    /// Takes the remains of a session.
    pub(crate) fn reap(&self, remains: Remains) {
        match self.0.try_send(remains) {
            Ok(()) => {}
            Err(TrySendError::Full(remains) | TrySendError::Disconnected(remains)) => {
                remains.punch();
            }
        }
    }
}

fn run(receiver: Receiver<Remains>) {
    receiver.iter().for_each(Remains::punch);
}

impl Remains {
    fn punch(self) {
        for puncher in &self.punchers {
            if let Err(error) = puncher.punch_all() {
                tracing::warn!(session = self.session, %error, "a segment could not be punched");
            }
        }
        drop(self.charges);
    }
}

#[cfg(test)]
mod tests {
    use ringmain_policy::{Quotas, Slot};
    use ringmain_shm::{Compat, PeerSegment};

    use super::*;
    use crate::account::Ledger;

    fn remains(ledger: &Ledger) -> Remains {
        let segment = || PeerSegment::create("test", 4096, &Compat::default()).unwrap().punch;
        let charge = |slot| ledger.charge(7, slot, 1).unwrap();
        let charges = [charge(Slot::Sessions), charge(Slot::SegmentBytes)];
        Remains { session: 1, punchers: [segment(), segment()], charges }
    }

    /// The one who lets go neither punches nor gives back; a full queue loses nothing.
    #[test]
    fn remains_wait_for_the_thread_and_beyond_the_bound_are_punched_at_once() {
        let ledger = Ledger::new(Quotas::default());
        let (sender, receiver) = sync_channel(1);
        let reaper = Reaper(sender);
        reaper.reap(remains(&ledger));
        assert!(!ledger.is_at_zero());
        reaper.reap(remains(&ledger));
        assert_eq!(ledger.held(7, Slot::Sessions), 1);
        drop(reaper);
        run(receiver);
        assert!(ledger.is_at_zero());
    }

    #[test]
    fn without_a_thread_the_one_who_lets_go_punches() {
        let ledger = Ledger::new(Quotas::default());
        let (sender, receiver) = sync_channel(1);
        drop(receiver);
        Reaper(sender).reap(remains(&ledger));
        assert!(ledger.is_at_zero());
    }
}
