//! The servers of a run: the simulated provider and the broker, as a user starts them.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ringmain_client::{Config, Session};

use super::bench::Stage;
use super::child::Child;
use super::placement::Place;
use crate::error::{BenchError, Result, Tried};
use crate::roles::Role;
use crate::roles::provider::RawProvider;

/// A provider on a free port.
#[derive(Debug)]
pub(crate) struct Provider {
    _child: Child,
    base_url: String,
}

/// `ringmain serve` with a generated configuration.
#[derive(Debug)]
pub(crate) struct Broker {
    child: Child,
    socket: PathBuf,
}

/// What the generated configuration says beyond the defaults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BrokerSetup<'a> {
    pub base_url: &'a str,
    pub place: Place,
    /// Whether it polls what is in use: `[broker] wait = "spin"`.
    pub spin: bool,
    /// Further lines of the endpoint's table.
    pub endpoint: &'a str,
    /// Whether the route leads to a producer of the model's name in place of the endpoint.
    pub producer: bool,
}

/// The model that every route and request of the harness names.
pub(crate) const MODEL: &str = "bench";

/// The target of a route that leads to the endpoint.
const PROVIDER: &str = "name = \"provider\"";

/// How long a server may take to be there.
const START_MAX: Duration = Duration::from_secs(10);

impl Provider {
    pub(crate) fn start(stage: &Stage, place: Place) -> Result<Provider> {
        Provider::start_with(stage, place, &[])
    }

    /// A provider with further arguments.
    pub(crate) fn start_with(stage: &Stage, place: Place, args: &[&str]) -> Result<Provider> {
        let mut command = stage.command();
        command.args(["sim", "--listen", "127.0.0.1:0"]).args(args);
        Provider::await_address(Child::start(stage, "sim", &mut command, place)?)
    }

    /// The provider that costs next to nothing.
    pub(crate) fn raw(stage: &Stage, tokens: u32) -> Result<Provider> {
        let role = Role::RawProvider(RawProvider { tokens });
        Provider::await_address(Child::role(stage, &role, Place::Any)?)
    }

    fn await_address(mut child: Child) -> Result<Provider> {
        let base_url = child.line()?;
        if !base_url.starts_with("http://") {
            let text = format!("{base_url:?} came in place of its address");
            return Err(BenchError::Role { role: "provider".to_owned(), text });
        }
        Ok(Provider { _child: child, base_url })
    }

    pub(crate) fn base_url(&self) -> &str {
        &self.base_url
    }
}

impl<'a> BrokerSetup<'a> {
    pub(crate) fn new(base_url: &'a str, place: Place) -> BrokerSetup<'a> {
        BrokerSetup { base_url, place, spin: false, endpoint: "", producer: false }
    }
}

impl Broker {
    pub(crate) fn start(stage: &Stage, setup: BrokerSetup<'_>) -> Result<Broker> {
        let socket = stage.workdir.fresh(".sock");
        let wait = if setup.spin { "wait = \"spin\"\n" } else { "" };
        let target = if setup.producer { format!("producer = {MODEL:?}") } else { PROVIDER.into() };
        let config = format!(
            "[broker]\nsocket = {socket:?}\n{wait}log = \"error\"\n\n\
             [[endpoint]]\nname = \"provider\"\nbase_url = {url:?}\n{endpoint}\n\
             [[route]]\nmodel = {MODEL:?}\nendpoints = [{{ {target} }}]\n",
            url = setup.base_url,
            endpoint = setup.endpoint,
        );
        let config = stage.workdir.write(".toml", &config)?;
        if setup.spin {
            knows_spin(stage, &config)?;
        }
        let mut command = stage.command();
        command.arg("serve").arg("--config").arg(config);
        let mut child = Child::start(stage, "serve", &mut command, setup.place)?;
        await_session(&mut child, &socket)?;
        Ok(Broker { child, socket })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }
}

/// A session proves more than a path: the broker answers.
fn await_session(child: &mut Child, socket: &Path) -> Result<()> {
    let mut config = Config::at(socket);
    config.attach_wait = Duration::from_millis(200);
    let start = Instant::now();
    // Bound: START_MAX.
    loop {
        match Session::attach(config.clone()).and_then(|mut session| session.ping()) {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > START_MAX => return Err(error.into()),
            Err(_) => child.must_run()?,
        }
    }
}

/// Brokers before a certain version cannot spin and say so.
fn knows_spin(stage: &Stage, config: &Path) -> Result<()> {
    let checked = stage.command().arg("check").arg("--config").arg(config).output();
    match checked.tried("checking the configuration")?.status.success() {
        true => Ok(()),
        false => Err(BenchError::Skip("this broker has no wait = \"spin\"".to_owned())),
    }
}

/// Waits until something accepts connections there.
pub(crate) fn await_port(port: u16) -> Result<()> {
    let start = Instant::now();
    // Bound: START_MAX.
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(_) => return Ok(()),
            Err(_) if start.elapsed() < START_MAX => {
                std::thread::sleep(Duration::from_millis(5));
            }
            failed => failed.map(drop).tried(format!("connecting to port {port}"))?,
        }
    }
}

/// A port that nothing listens on. Whoever is told to use it does so at once.
pub(crate) fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).tried("binding a port")?;
    Ok(listener.local_addr().tried("the port bound")?.port())
}
