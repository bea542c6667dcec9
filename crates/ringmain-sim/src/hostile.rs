//! Peers that attach as the protocol asks and then break its rules.
