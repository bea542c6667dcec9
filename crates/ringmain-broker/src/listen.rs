//! The accept loop: who comes, whether it may, and what it is charged, before a word is read.

use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ringmain_policy::Slot;
use ringmain_shm::{Control, Listener, Readiness, monotonic_ns};
use ringmain_wire::Code;
use ringmain_wire::control::Refused;

use crate::allow::Identity;
use crate::attach::{self, Admission};
use crate::broker::{Broker, Phase};

/// Connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Pause after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// What is left in the listener's queue after a turn.
enum Left {
    Failed(io::Error),
    Nothing,
    Something,
}

/// Accepts until `drain` is ready.
pub(crate) async fn accept_until(
    broker: &Arc<Broker>,
    listener: &Listener,
    drain: impl Future<Output = ()>,
) -> io::Result<()> {
    let ready = Readiness::new(listener.as_fd().try_clone_to_owned()?)?;
    let mut drain = pin!(drain);
    let mut left = Left::Nothing;
    loop {
        tokio::select! {
            biased;
            () = &mut drain => return Ok(()),
            more = wait(&ready, &left) => more?,
        }
        left = turn(broker, listener);
        if let Left::Failed(error) = &left {
            tracing::warn!(%error, "a connection could not be accepted");
        }
    }
}

async fn wait(ready: &Readiness, left: &Left) -> io::Result<()> {
    match left {
        Left::Nothing => ready.readable().await,
        Left::Something => {
            tokio::task::yield_now().await;
            Ok(())
        }
        Left::Failed(_) => {
            tokio::time::sleep(PAUSE).await;
            Ok(())
        }
    }
}

fn turn(broker: &Arc<Broker>, listener: &Listener) -> Left {
    for _ in 0..ACCEPTS_PER_TURN {
        match listener.accept() {
            Ok(Some(control)) => {
                let admission = admit(broker, &control);
                let is_nameless = matches!(&admission, Err(r) if r.code == Code::PeerUnidentified);
                if is_nameless && !broker.may_refuse_nameless() {
                    // No uid to charge: beyond the rate they are closed without a word.
                    broker.live().refused(Code::PeerUnidentified);
                    continue;
                }
                tokio::spawn(attach::run(broker.clone(), control, admission));
            }
            Ok(None) => return Left::Nothing,
            // The peer gave up while it waited in the queue.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Left::Failed(error),
        }
    }
    Left::Something
}

/// Judges a connection by what the kernel says of its peer. A connection is charged as a session
/// from here on, so that one who never says Hello uses up its own quota.
fn admit(broker: &Broker, control: &Control) -> Result<Admission, Refused> {
    let peer = control.peer(&broker.config().compat).map_err(|error| {
        let text = format!("the kernel does not say who the peer is: {error}");
        Refused::new(Code::PeerUnidentified, text)
    })?;
    let identity = Identity::of(&peer);
    let uid = identity.uid;
    let exceeded = |error: ringmain_policy::QuotaExceeded| {
        Refused::new(Code::QuotaExceeded, error.to_string())
    };
    broker.ledger().connect(uid, monotonic_ns()).map_err(exceeded)?;
    // Which of the two it wants to be is not said yet.
    if !broker.routes().may_produce(&identity) {
        permit(broker, &identity)?;
    }
    if broker.phase() != Phase::Serving {
        return Err(Refused::new(Code::Draining, Code::Draining.sentence()));
    }
    let charge = broker.ledger().charge(uid, Slot::Sessions, 1).map_err(exceeded)?;
    Ok(Admission { identity, pidfd: peer.pidfd, charge })
}

/// Whether this peer may send requests.
pub(crate) fn permit(broker: &Broker, identity: &Identity) -> Result<(), Refused> {
    if broker.config().allow.permits(identity) {
        return Ok(());
    }
    let Identity { uid, pid, .. } = identity;
    let text = format!("uid {uid} (process {pid}) may not use this broker");
    Err(Refused::new(Code::NotAllowed, text))
}
