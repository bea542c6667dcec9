//! The HTTP face of the broker, if the configuration asks for one.

use std::sync::Arc;

use ringmain_broker::Broker;
use ringmain_http::{HttpConfig, HttpError, Server};
use tracing::{info, warn};

/// Binds its addresses and says who may call.
///
/// # Errors
/// An address cannot be had.
pub fn open(config: &HttpConfig, broker: &Arc<Broker>) -> Result<Server, HttpError> {
    let server = Server::bind(config.clone(), Arc::clone(broker))?;
    for address in server.addresses() {
        info!(%address, "serving HTTP");
    }
    if config.ignores_keys() {
        warn!(
            "every process of this host may call over TCP, whatever key it sends: name callers as \
             [[client]] to close it"
        );
    }
    Ok(server)
}
