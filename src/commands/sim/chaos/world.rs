//! What a random run runs: providers in this process, a broker and its clients in others.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ringmain_shm::monotonic_ns;
use ringmain_sim::contract::{BrokerDeath, Death, Gauge, History};
use ringmain_sim::{Fault, Provider, ProviderConfig};
use serde_json::Value;

use super::schedule::Load;

/// How long anything may take that must happen. Only a fault of the broker takes as long.
const PATIENCE: Duration = Duration::from_secs(40);

/// An error of the run itself.
pub type Failed = Box<dyn Error>;

/// Everything that a run has started.
pub struct World {
    folder: PathBuf,
    main: Provider,
    spare: Provider,
    /// Nobody listens there; held so that nobody else does.
    dead: Provider,
    broker: Option<Child>,
    clients: Vec<Client>,
    history: History,
}

/// A process of callers.
struct Client {
    child: Child,
    process: u64,
    records: PathBuf,
    kill_at: Option<Instant>,
}

impl World {
    /// Starts providers and a broker that keep their files in this folder.
    pub fn start(folder: PathBuf) -> Result<World, Failed> {
        let spare = Provider::start(ProviderConfig::default())?;
        let connections = Some(Fault::ConnectRefused);
        let dead = Provider::start(ProviderConfig { connections, ..ProviderConfig::default() })?;
        let main = Provider::start(ProviderConfig::default())?;
        let (broker, clients, history) = (None, Vec::new(), History::default());
        let mut world = World { folder, main, spare, dead, broker, clients, history };
        fs::write(world.config(), world.config_text())?;
        world.start_broker()?;
        Ok(world)
    }

    fn config(&self) -> PathBuf {
        self.folder.join("ringmain.toml")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("broker.sock")
    }

    fn config_text(&self) -> String {
        let endpoint = |name: &str, addr: SocketAddr, http2: &str| {
            format!(
                "[[endpoint]]\nname = {name:?}\nbase_url = \"http://{addr}/v1\"\nhttp2 = {http2:?}\n\
                 breaker = {{ open = \"100ms\", open_max = \"300ms\" }}\n"
            )
        };
        let route = |model: &str, first: &str, more: &str| {
            format!("[[route]]\nmodel = {model:?}\nendpoints = [{{ name = {first:?} }}]\n{more}\n")
        };
        let fallback = "fallback = [{ name = \"spare\" }]";
        [
            format!("[broker]\nsocket = {:?}\n", self.socket()),
            "[limits]\nhead = \"700ms\"\nfirst_content = \"700ms\"\nidle = \"500ms\"\n".to_owned(),
            "[retry]\nattempts = 3\nwait = \"1s\"\n".to_owned(),
            endpoint("one", self.main.addr(), "off"),
            endpoint("two", self.main.addr(), "prior-knowledge"),
            endpoint("spare", self.spare.addr(), "off"),
            endpoint("dead", self.dead.addr(), "off"),
            route("one", "one", ""),
            route("two", "two", fallback),
            route("spare", "dead", fallback),
            route("limited", "one", ""),
            "[[limit]]\nroute = \"limited\"\nrequests_per_minute = 600\nin_flight = 4\n".to_owned(),
        ]
        .concat()
    }

    fn start_broker(&mut self) -> Result<(), Failed> {
        let log = File::options().create(true).append(true).open(self.folder.join("broker.log"))?;
        let mut serve = ringmain();
        serve.args(["serve", "--config"]).arg(self.config());
        serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.broker = Some(ran(serve.spawn())?);
        wait_for("the broker starts", || Ok(ringmain_shm::Control::connect(&self.socket()).is_ok()))
    }

    /// Kills the broker and starts another on the same socket.
    pub fn kill_broker(&mut self) -> Result<(), Failed> {
        let epoch = self.status()?["epoch"].as_u64().unwrap_or_default();
        if let Some(mut broker) = self.broker.take() {
            broker.kill()?;
            broker.wait()?;
        }
        self.history.broker_deaths.push(BrokerDeath { epoch, at_ns: monotonic_ns() });
        self.start_broker()
    }

    /// Starts a process of callers.
    pub fn load(&mut self, process: u64, load: &Load) -> Result<(), Failed> {
        let records = self.folder.join(format!("records-{process}"));
        let mut drive = ringmain();
        drive.arg("drive").arg("--socket").arg(self.socket());
        drive.args(["--model", load.route, "--mode", load.mode, "--submissions"]);
        for (key, value) in [
            ("--streams", load.streams),
            ("--concurrency", load.concurrency),
            ("--deadline-ms", load.deadline_ms),
            ("--process", process),
        ] {
            drive.args([key, &value.to_string()]);
        }
        if let Some(after) = load.cancel_after {
            drive.args(["--cancel-after", &after.to_string()]);
        }
        drive.args(["--prompt", &load.prompt()]).arg("--out").arg(&records);
        drive.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = ran(drive.spawn())?;
        let kill_at = load.kill_after_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        self.clients.push(Client { child, process, records, kill_at });
        Ok(())
    }

    /// Kills the processes whose time has come.
    pub fn kill_due(&mut self) -> Result<(), Failed> {
        let now = Instant::now();
        for client in self.clients.iter_mut().filter(|c| c.kill_at.is_some_and(|at| at <= now)) {
            client.kill_at = None;
            // One that has ended by itself did not die.
            if client.child.try_wait()?.is_none() {
                client.child.kill()?;
                client.child.wait()?;
                let at_ns = monotonic_ns();
                self.history.deaths.push(Death { process: client.process, at_ns });
            }
        }
        Ok(())
    }

    /// Waits for the end of everything and gives what was recorded, with the gauges at rest.
    pub fn finish(mut self) -> Result<(History, PathBuf), Failed> {
        let mut clients = std::mem::take(&mut self.clients);
        for client in &mut clients {
            let what = format!("process {} of callers ends", client.process);
            wait_for(&what, || Ok(client.child.try_wait()?.is_some()))?;
        }
        self.await_rest()?;
        let status = self.status()?;
        let mut history = std::mem::take(&mut self.history);
        history.gauges = gauges(&status);
        for client in &clients {
            if let Ok(file) = File::open(&client.records) {
                history.add_callers(BufReader::new(file))?;
            }
        }
        history.provider = self.main.log();
        history.provider.extend(self.spare.log());
        // Two providers, one order of arrival.
        history.provider.sort_by_key(|record| record.arrived_ns);
        Ok((history, self.folder.clone()))
    }

    fn await_rest(&self) -> Result<(), Failed> {
        wait_for("the providers are at rest", || {
            let logs = [self.main.log(), self.spare.log()];
            Ok(logs.iter().flatten().all(|record| record.ended.is_some()))
        })?;
        // A gauge that never rests is a violation, which the checker tells by its name.
        let is_at_rest = |status: &Value| gauges(status).iter().all(|g| g.value == g.rest);
        let _ = wait_for("the gauges are at rest", || Ok(is_at_rest(&self.status()?)));
        Ok(())
    }

    fn status(&self) -> Result<Value, Failed> {
        let mut status = ringmain();
        let output =
            ran(status.args(["status", "--json", "--socket"]).arg(self.socket()).output())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in self.clients.iter_mut().map(|client| &mut client.child).chain(&mut self.broker)
        {
            let _ = child.kill();
            let _ = child.wait();
        }
        // A killed broker leaves its counters behind, for a successor that never comes.
        let counters = ringmain_broker::counters::segment_name(&self.socket());
        let _ = fs::remove_file(Path::new("/dev/shm").join(counters));
    }
}

/// This program, to be run once more. Named by what runs and not by its file, so that it is the
/// same one to the end of a long run, whatever is built or removed meanwhile.
fn ringmain() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("ringmain").arg("--with-parent");
    command.env_remove("RINGMAIN_SOCKET").env_remove("NOTIFY_SOCKET");
    command
}

/// What came of running it.
fn ran<T>(result: io::Result<T>) -> Result<T, Failed> {
    result.map_err(|error| format!("this program could not be run once more: {error}").into())
}

/// Everything that a broker holds for somebody, which is nothing in the end.
fn gauges(status: &Value) -> Vec<Gauge> {
    let mut all = Vec::new();
    let mut add = |name: String, value: &Value| {
        let value = value.as_i64();
        all.extend(value.map(|value| Gauge { name, rest: 0, value }));
    };
    for name in ["sessions", "streams"] {
        add(name.to_owned(), &status[name]);
    }
    for endpoint in status["endpoints"].as_array().into_iter().flatten() {
        let name = endpoint["name"].as_str().unwrap_or_default();
        for key in ["in_use", "streams", "waiting"] {
            add(format!("{key} of endpoint {name}"), &endpoint["pool"][key]);
        }
        add(format!("pending of endpoint {name}"), &endpoint["pending"]);
    }
    for limit in status["limits"].as_array().into_iter().flatten() {
        let name = limit["name"].as_str().unwrap_or_default();
        for key in ["in_flight", "waiting"] {
            add(format!("{key} of limit {name}"), &limit[key]);
        }
    }
    all
}

fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool, Failed>) -> Result<(), Failed> {
    let start = Instant::now();
    while !done()? {
        if start.elapsed() > PATIENCE {
            return Err(format!("this never happened: {what}").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
