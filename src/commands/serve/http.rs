//! The HTTP face of the broker, if the configuration asks for one.

use std::sync::Arc;

use ringmain_broker::Broker;
use ringmain_http::{HttpConfig, HttpError, Listen, Server};
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
    if is_open(config) {
        warn!(
            "every process of this host may call over TCP, whatever key it sends: name callers as \
             [[client]] to close it"
        );
    }
    Ok(server)
}

/// Whether TCP callers need no key.
pub fn is_open(config: &HttpConfig) -> bool {
    let is_tcp = |listen: &Listen| matches!(listen, Listen::Tcp(_));
    config.clients.is_empty() && config.listen.iter().any(is_tcp)
}
