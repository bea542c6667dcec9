//! A broker on a thread of this process: a test sees both ends of a session at once, and may
//! switch off what no configuration file can.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ringmain_broker::{Broker, BrokerConfig, RouteTable};
use ringmain_shm::Listener;
use ringmain_upstream::{Endpoint, EndpointConfig};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// A broker that serves every model from one endpoint. Dropped, it ends without a drain.
pub struct InProcess {
    pub broker: Arc<Broker>,
    pub endpoint: Arc<Endpoint>,
    dir: TempDir,
    drain: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl InProcess {
    /// Starts it; the socket has this mode.
    pub fn start(endpoint: EndpointConfig, mut config: BrokerConfig, mode: u32) -> InProcess {
        let dir = tempfile::Builder::new().prefix("ringmain-test").tempdir().unwrap();
        super::set_mode(dir.path(), 0o755);
        config.drain = Duration::ZERO;
        let endpoint = Arc::new(Endpoint::new(endpoint).unwrap());
        let table = RouteTable::new(Vec::new(), vec![endpoint.clone()]).unwrap();
        let broker = Broker::new(config, table);
        let listener = Listener::bind(&dir.path().join("broker.sock"), mode, None).unwrap();
        let (drain, told) = oneshot::channel::<()>();
        let serving = broker.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let told = async {
                let _ = told.await;
            };
            runtime.unwrap().block_on(serving.serve(listener, told)).unwrap();
        });
        InProcess { broker, endpoint, dir, drain: Some(drain), thread: Some(thread) }
    }

    /// Path of the control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("broker.sock")
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        drop(self.drain.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
