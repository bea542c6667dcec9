//! Plain calls one after the other, of which some may fail.

use std::path::PathBuf;

use ringmain_client::{Config, Request, Session};
use serde::{Deserialize, Serialize};

use super::answer;
use super::consume::plain_body;
use super::load::Load;
use crate::error::Result;
use crate::harness::servers::MODEL;

/// Calls through a broker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Calls {
    pub socket: PathBuf,
    pub calls: u32,
    /// Steers the provider.
    pub prompt: String,
}

/// How they ended.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub failures: u32,
}

/// Calls without a pause in between and counts what did not end well.
pub(crate) fn calls(told: &Calls) -> Result<()> {
    let mut session = Session::attach(Config::at(&told.socket))?;
    let body = plain_body(&Load { prompt: told.prompt.clone(), ..Load::plain(1, 1) });
    let mut failures = 0;
    for _ in 0..told.calls {
        let exchange =
            session.submit(&Request::new(MODEL, "/chat/completions"), body.as_slice())?;
        let is_well = loop {
            match session.next(exchange) {
                Ok(Some(_)) => {}
                Ok(None) => break true,
                Err(error) => {
                    eprintln!("ringmain: a call failed: {error}");
                    break false;
                }
            }
        };
        failures += u32::from(!is_well);
    }
    answer(&Counted { failures })
}
