//! Memory, descriptors and peers: the only crate of Ringmain with unsafe code.
//!
//! Everything that the kernel keeps for a session is made, checked and handed out here; the crates
//! above forbid unsafe code and see offsets, words and readiness. Linux 5.14 or newer. Every
//! descriptor that leaves this crate is close-on-exec.
//!
//! | module | what it holds |
//! |---|---|
//! | [`map`] | mapped memory: who may load, who may store, and why no reference covers it |
//! | [`segment`] | sealed memfds with exactly one writer, and how they are punched |
//! | `lend` | the one type that lends peer-writable bytes (feature `lend`) |
//! | [`doorbell`] | the waiting and the ringing end of a wake-up |
//! | [`control`] | one connection of the control socket: datagrams and descriptors |
//! | [`listener`] | the control socket's path: one owner, exact permissions, no stale file |
//! | [`peer`] | who is at the other end, and a descriptor that tells when it is gone |
//! | [`sleeper`] | the blocking wait of a client |
//! | `readiness` | the same wait for a tokio task (feature `tokio`) |
//! | [`fork`] | one load that tells a child from its parent |
//! | [`process`] | clock, descriptor limit, ids and names |
//! | `socket` | a second handle on a connection that a library owns (feature `tokio`) |
//! | `testing` | a fork for tests |
//! | [`counters`] | read-only look at the broker's named counters |
//!
//! # Trust
//!
//! A peer of another uid is hostile. Three rules keep it harmless, and each is held by the kernel
//! rather than by manners: a peer can not write what it only reads, can not truncate what others
//! map, and no call of this crate on a descriptor that a peer shares can wait for that peer.
#![allow(unsafe_code)] // the workspace denies it; this crate is the exception
#![deny(unsafe_op_in_unsafe_fn)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("ringmain runs on 64-bit Linux: 64-bit words of a read-only page, memfd, pidfd");

mod aio;
mod attach;
pub mod control;
pub mod counters;
pub mod doorbell;
pub mod fork;
#[cfg(feature = "lend")]
pub mod lend;
pub mod listener;
pub mod map;
pub mod peer;
pub mod process;
#[cfg(feature = "tokio")]
pub mod readiness;
mod region;
pub mod segment;
pub mod sleeper;
#[cfg(feature = "tokio")]
pub mod socket;
#[doc(hidden)]
pub mod testing;

pub use attach::AttachError;
pub use control::{Control, Received};
pub use counters::open_shared_counters;
pub use doorbell::{Bell, Ringer, RingerKind, bell_pair};
pub use fork::ForkMark;
#[cfg(feature = "lend")]
pub use lend::lend;
pub use listener::{BindError, Listener, StreamListener};
pub use map::{ReadMap, Trust, TrustedMap, WriteMap};
pub use peer::Peer;
pub use process::{monotonic_ns, own_uid, raise_nofile, thread_cpu_ns};
#[cfg(feature = "tokio")]
pub use readiness::Readiness;
pub use segment::{Compat, OwnSegment, PeerSegment, Puncher};
pub use sleeper::{Sleeper, Woken};
#[cfg(feature = "tokio")]
pub use socket::{SocketHandle, UnixConnections};
