//! What the tests share: a broker at a socket, a caller made of bare ring ends, and a provider
//! that does exactly what a test tells it.
#![allow(dead_code)] // each test file uses its part

pub mod caller;
pub mod guest;
pub mod provider;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ringmain_broker::{Broker, BrokerConfig, DrainReport, Route, RouteTable, Target};
use ringmain_shm::Listener;
use ringmain_upstream::{Endpoint, EndpointConfig, UsageSplice};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

#[allow(unused_imports)]
pub use caller::{Caller, Got};
#[allow(unused_imports)]
pub use provider::{Provider, Step};

/// Nothing in these tests takes this long unless it hangs.
pub const WATCHDOG: Duration = Duration::from_secs(10);

/// A broker that serves at a socket of its own.
pub struct Served {
    pub broker: Arc<Broker>,
    pub socket: PathBuf,
    drain: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<DrainReport>>,
    _folder: tempfile::TempDir,
}

impl Served {
    pub fn start(config: BrokerConfig, table: RouteTable) -> Served {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("broker.sock");
        let listener = Listener::bind(&socket, 0o600, None).unwrap();
        let broker = Broker::new(config, table);
        let (drain, told) = oneshot::channel();
        let serving = broker.clone();
        let task = tokio::spawn(async move {
            let told = async { told.await.unwrap_or(()) };
            serving.serve(listener, told).await.unwrap()
        });
        Served { broker, socket, drain: Some(drain), task: Some(task), _folder: folder }
    }

    /// With one provider that serves every model.
    pub fn with(provider: &Provider) -> Served {
        Served::start(BrokerConfig::default(), everything(provider))
    }

    pub fn drain(&mut self) {
        self.drain.take().unwrap().send(()).unwrap();
    }

    pub async fn ended(&mut self) -> DrainReport {
        soon(self.task.take().unwrap()).await.unwrap()
    }

    /// Waits until nobody holds anything.
    pub async fn at_rest(&self) {
        until(|| self.broker.is_at_rest()).await;
    }
}

pub fn endpoint(name: &str, provider: &Provider) -> Arc<Endpoint> {
    let mut config = EndpointConfig::new(name, provider.base_url());
    config.usage = UsageSplice::Off;
    Arc::new(Endpoint::new(config).unwrap())
}

pub fn everything(provider: &Provider) -> RouteTable {
    RouteTable::new(vec![], vec![endpoint("local", provider)]).unwrap()
}

pub fn route(model: &str, endpoint: &str) -> Route {
    Route { model: model.to_owned(), targets: vec![Target::new(endpoint)], allow: None }
}

/// Fails a test that hangs instead of hanging with it.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(WATCHDOG, future).await.expect("the watchdog bit")
}

/// Looks again and again, within the watchdog.
pub async fn until(mut is_so: impl FnMut() -> bool) {
    soon(async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}
