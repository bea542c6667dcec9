//! The task of a producer's session: sleeps on the bell for everybody who waits for a frame,
//! throws away what nobody wants any more, watches over what is owed, and ends the session when
//! the peer hangs up, exits, misbehaves or the broker is done.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ringmain_wire::Code;
use tokio::time::{Instant, sleep_until};

use super::{Gone, Producer};
use crate::broker::Broker;
use crate::failure::Violation;
use crate::session::watch::{Ending, Watch};

/// Runs the session to its end.
pub(crate) async fn run(broker: Arc<Broker>, producer: Arc<Producer>, watch: Watch) {
    let _listed = broker.enlist_producer(&producer);
    let mut task = Task { broker, producer, watch, frames: 0, owed_until: None };
    let ending = task.serve().await;
    task.end(ending);
}

struct Task {
    broker: Arc<Broker>,
    producer: Arc<Producer>,
    watch: Watch,
    /// Frames read as of the last turn.
    frames: u64,
    /// When something that is owed is overdue.
    owed_until: Option<Instant>,
}

impl Task {
    async fn serve(&mut self) -> Ending {
        loop {
            let more = match self.turn() {
                Ok(more) => more,
                Err(ending) => return ending,
            };
            if more {
                // What was thrown away may not be all: others first.
                tokio::task::yield_now().await;
                continue;
            }
            let mut is_ready = false;
            if self.producer.is_watched() {
                self.producer.arm();
                // Everything that the bell covers is looked at once more before sleeping.
                match self.producer.look() {
                    Ok(found) => is_ready = found,
                    Err(violation) => return Ending::Violation(violation),
                }
            }
            let woken = match is_ready {
                true => Ok(None),
                false => self.watch.sleep(told(&self.producer, self.owed_until)).await.map(Some),
            };
            self.producer.disarm();
            if let Ok(None) = woken {
                // Work that was found on the way to sleep: others first here too.
                tokio::task::yield_now().await;
            }
            if let Err(ending) = self.watch.heed(woken) {
                return ending;
            }
        }
    }

    /// One bounded turn; true if it found something, so that there may be more.
    fn turn(&mut self) -> Result<bool, Ending> {
        if let Some(violation) = self.producer.violation() {
            return Err(Ending::Violation(violation));
        }
        self.watch.look(&self.broker)?;
        let found = self.producer.look().map_err(Ending::Violation)?;
        let frames = self.producer.frames.load(Ordering::Relaxed);
        if found || std::mem::replace(&mut self.frames, frames) != frames {
            self.watch.was_due();
        }
        self.collect()?;
        Ok(found || self.watch.is_hearing())
    }

    /// Takes back what was owed, within the patience.
    fn collect(&mut self) -> Result<(), Ending> {
        let patience = self.broker.config().loan;
        let mut desk = self.producer.desk.lock();
        desk.collect();
        self.owed_until = desk.owed_until(patience);
        if self.owed_until.is_none_or(|until| until > Instant::now()) {
            return Ok(());
        }
        let text = format!("an exchange that is over was not let go of for {patience:?}");
        Err(Ending::Violation(Violation::new(Code::ViolationLoan, text)))
    }

    /// Lets everybody know who waits, tells the peer and the log why, once each.
    fn end(self, ending: Ending) {
        let (_, text) = ending.describe();
        let is_orderly = !matches!(ending, Ending::Violation(_));
        // Nothing new comes here from now on; what is held ends at once.
        self.broker.producers().remove(&self.producer);
        self.producer.retire(Gone { text, is_orderly });
        self.watch.part(&ending);
        let exchanges = self.producer.exchanges_total.load(Ordering::Relaxed);
        ending.tell(&self.broker, self.producer.id, &self.producer.peer, exchanges);
    }
}

/// Ready when the broker wants something of the session, or when something owed is overdue.
async fn told(producer: &Producer, owed_until: Option<Instant>) {
    match owed_until {
        None => producer.told.notified().await,
        Some(until) => tokio::select! {
            () = producer.told.notified() => {}
            () = sleep_until(until) => {}
        },
    }
}
