//! Memory that a request takes here beside its own body: what it is compressed or translated into.

use std::fmt;

use bytes::Bytes;

use crate::error::UpstreamError;

/// Whom such memory is charged to.
pub trait Account: fmt::Debug + Send + Sync {
    /// Charges so many bytes until what is returned is dropped, on whatever thread.
    ///
    /// # Errors
    /// There is no room for them: sent no, stage intake.
    fn charge(&self, bytes: u64) -> Result<Box<dyn Charge>, UpstreamError>;
}

/// Memory that is charged until this is dropped.
pub trait Charge: Send + Sync {
    /// Gives back what goes beyond so many bytes.
    fn shrink_to(&mut self, bytes: u64);
}

/// Room for bytes that are to be made, charged before they are; without an account it is free.
pub(crate) struct Room(Option<Box<dyn Charge>>);

/// Bytes and their charge, which go together.
struct Held {
    bytes: Vec<u8>,
    _room: Room,
}

impl Room {
    pub fn of(account: Option<&dyn Account>, bytes: usize) -> Result<Room, UpstreamError> {
        account.map(|account| account.charge(bytes as u64)).transpose().map(Room)
    }

    /// The bytes that were made. From now on they are what is charged, until their last clone is
    /// dropped.
    pub fn hold(mut self, mut bytes: Vec<u8>) -> Bytes {
        bytes.shrink_to_fit();
        if let Some(charge) = &mut self.0 {
            charge.shrink_to(bytes.len() as u64);
        }
        Bytes::from_owner(Held { bytes, _room: self })
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use ringmain_wire::{Code, Sent, Stage};

    /// An account with a limit, which remembers the most that it held.
    #[derive(Clone, Debug)]
    pub(crate) struct Limited(Arc<Mutex<Counts>>);

    #[derive(Debug)]
    pub(crate) struct Counts {
        pub limit: u64,
        pub held: u64,
        pub peak: u64,
    }

    struct Part {
        of: Limited,
        bytes: u64,
    }

    impl Limited {
        pub fn to(limit: u64) -> Limited {
            Limited(Arc::new(Mutex::new(Counts { limit, held: 0, peak: 0 })))
        }

        pub fn held(&self) -> u64 {
            self.0.lock().held
        }

        pub fn peak(&self) -> u64 {
            self.0.lock().peak
        }
    }

    impl Account for Limited {
        fn charge(&self, bytes: u64) -> Result<Box<dyn Charge>, UpstreamError> {
            let mut counts = self.0.lock();
            if counts.held + bytes > counts.limit {
                let code = Code::QuotaExceeded;
                return Err(UpstreamError::new(code, Stage::Intake, Sent::No, "no room"));
            }
            counts.held += bytes;
            counts.peak = counts.peak.max(counts.held);
            Ok(Box::new(Part { of: self.clone(), bytes }))
        }
    }

    impl Charge for Part {
        fn shrink_to(&mut self, bytes: u64) {
            let kept = self.bytes.min(bytes);
            self.of.0.lock().held -= self.bytes - kept;
            self.bytes = kept;
        }
    }

    impl Drop for Part {
        fn drop(&mut self) {
            self.of.0.lock().held -= self.bytes;
        }
    }

    #[test]
    fn room_is_what_is_held_until_the_last_clone_is_gone() {
        let account = Limited::to(100);
        let room = Room::of(Some(&account), 100).unwrap();
        assert!(Room::of(Some(&account), 1).is_err());
        let bytes = room.hold(vec![7; 40]);
        assert_eq!(account.held(), 40);
        let piece = bytes.slice(39..);
        drop(bytes);
        assert_eq!((account.held(), &piece[..]), (40, &[7][..]));
        drop(piece);
        assert_eq!(account.held(), 0);
        drop(Room::of(Some(&account), 100).unwrap());
        assert_eq!((account.held(), account.peak()), (0, 100));
        assert_eq!(Room::of(None, 100).unwrap().hold(vec![1]), [1][..]);
    }
}
