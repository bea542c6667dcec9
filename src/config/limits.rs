//! The `[limits]` and `[quota]` tables.

use std::time::Duration;

use ringmain_policy::{ExchangeLimits, Quotas};

use super::section::Section;

/// Reads `[limits]`: how long each part of an exchange may take.
pub(super) fn read_limits(mut table: Section<'_>) -> ExchangeLimits {
    let usual = ExchangeLimits::default();
    let mut limit = |key, usual: Duration| match table.duration(key) {
        Some(none) if none.is_zero() => {
            table.fault_at(key, "is zero: nothing could ever be in time");
            usual
        }
        given => given.unwrap_or(usual),
    };
    let limits = ExchangeLimits {
        connect: limit("connect", usual.connect),
        write: limit("write", usual.write),
        head: limit("head", usual.head),
        first_content: limit("first_content", usual.first_content),
        idle: limit("idle", usual.idle),
        total: limit("total", usual.total),
        slow_consumer: limit("slow_consumer", usual.slow_consumer),
    };
    table.finish();
    limits
}

/// Reads `[quota]`: how much one uid may hold.
pub(super) fn read_quota(mut table: Section<'_>) -> Quotas {
    let usual = Quotas::default();
    let connects = table.integer("connects_per_s", 1..=1_000_000);
    let quota = Quotas {
        sessions: table.integer("sessions", 1..=1_000_000).unwrap_or(usual.sessions),
        segment_bytes: table.integer("segment_bytes", 1..=1 << 50).unwrap_or(usual.segment_bytes),
        exchanges: table.integer("exchanges", 1..=1 << 32).unwrap_or(usual.exchanges),
        copy_bytes: table.integer("copy_bytes", 1..=1 << 50).unwrap_or(usual.copy_bytes),
        connects_per_s: connects.map_or(usual.connects_per_s, |rate| rate as u32),
    };
    table.finish();
    quota
}
