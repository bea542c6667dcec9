//! Simulated provider, scripted faults, hostile peers and the contract checker.
#![forbid(unsafe_code)]
