//! The command line: what can be typed, and nothing of what it does.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ringmain_sim::Fault;

use crate::config::DEFAULT_PATH;

/// One broker per host that feeds every local process with inference streams through shared
/// memory.
#[derive(Debug, Parser)]
#[command(name = "ringmain", version, about, max_term_width = 100)]
pub struct Cli {
    /// End when the process ends that started this one, however it ends.
    #[arg(long, hide = true)]
    pub with_parent: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the broker of this host.
    Serve(ConfigFile),
    /// Show processes that receive token streams through a broker, and the same without one.
    Demo(Demo),
    /// Ask one question and stream the answer to standard output.
    Chat(Chat),
    /// Show what a running broker counts.
    Status(Status),
    /// Validate a configuration: one sentence per fault, with line and key.
    Check(ConfigFile),
    /// Run a simulated provider that speaks the OpenAI API.
    Sim(Sim),
    /// Put load on a broker and write one record per exchange.
    Drive(Drive),
    /// Make keys for clients of the HTTP face.
    #[command(subcommand)]
    Key(Key),
    /// Measure this machine: ratios of broker, rings and consumers to their baselines.
    Bench(Bench),
    /// One of the consumer processes of the demo.
    #[command(hide = true)]
    DemoConsumer(DemoConsumer),
    /// One of the processes of a measurement.
    #[command(hide = true)]
    BenchRole(BenchRole),
}

/// Names a configuration.
#[derive(Args, Debug)]
pub struct ConfigFile {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
}

/// Names a broker.
#[derive(Args, Debug)]
pub struct Socket {
    /// Control socket of the broker [default: $RINGMAIN_SOCKET, else the first that exists of
    /// $XDG_RUNTIME_DIR/ringmain/broker.sock and /run/ringmain/broker.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// `ringmain demo`
#[derive(Args, Debug)]
pub struct Demo {
    /// Tokens per stream.
    #[arg(long, value_name = "N", default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pub tokens: u32,
    /// Streams that each of the three consumer processes runs at once.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub streams: u32,
}

/// `ringmain chat`
#[derive(Args, Debug)]
pub struct Chat {
    #[command(flatten)]
    pub broker: Socket,
    /// Name of the model, as the broker's routes have it.
    #[arg(long, short)]
    pub model: String,
    /// A system message before the prompt.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Most tokens of the answer.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// The prompt; `-` reads it from standard input.
    pub prompt: String,
}

/// `ringmain status`
#[derive(Args, Debug)]
pub struct Status {
    #[command(flatten)]
    pub broker: Socket,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    pub json: bool,
}

/// `ringmain sim`
#[derive(Args, Debug)]
pub struct Sim {
    /// Address to listen on; port 0 takes a free one, and the first line of output names it.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:18080")]
    pub listen: SocketAddr,
    /// Folder of recordings for `[[sim replay=openai/text.sse]]`.
    #[arg(long, value_name = "DIR")]
    pub replay_dir: Option<PathBuf>,
    /// Speak TLS; the authority to trust is written to DIR/ca.pem.
    #[arg(long, value_name = "DIR")]
    pub tls: Option<PathBuf>,
    /// File of faults: lines such as `*/10 status=503`, `5-7 fault=reset at=2` or
    /// `connection 2 fault=accept_silent`.
    #[arg(long, value_name = "FILE")]
    pub faults: Option<PathBuf>,
    /// What every connection meets, such as tls_expired.
    #[arg(long, value_name = "FAULT")]
    pub connections: Option<Fault>,
    /// Most concurrent streams on one HTTP/2 connection.
    #[arg(long, value_name = "N")]
    pub h2_streams: Option<u32>,
    /// Print all faults with what callers are told, and end.
    #[arg(long)]
    pub list_faults: bool,
    /// Play a random run of faults, cancels, kills and limits against a broker of its own, and
    /// judge it by the delivery contract.
    #[arg(long, conflicts_with_all = ["listen", "replay_dir", "tls", "faults", "connections"])]
    pub chaos: bool,
    /// Seed of the random run: the same seed plays the same schedule [default: drawn and told].
    #[arg(long, value_name = "N", requires = "chaos")]
    pub seed: Option<u64>,
    /// Length of the random run.
    #[arg(long, value_name = "M", requires = "chaos", default_value_t = 1.0)]
    pub minutes: f64,
}

/// `ringmain drive`
#[derive(Args, Debug)]
pub struct Drive {
    #[command(flatten)]
    pub broker: Socket,
    /// Name of the model.
    #[arg(long, default_value = "tiny")]
    pub model: String,
    /// Exchanges to run in all; 0 goes on until the process is stopped.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub streams: u64,
    /// Exchanges that run at the same time.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: u32,
    /// The prompt of every exchange; `{i}` stands for its number, `{id}` for its correlation id.
    #[arg(long, default_value = "[[sim n=20 id={id}]]")]
    pub prompt: String,
    /// What is delivered.
    #[arg(long, value_enum, default_value_t = Delivery::Deltas)]
    pub mode: Delivery,
    /// How the process waits for frames.
    #[arg(long, value_enum, default_value_t = Waiting::Block)]
    pub wait: Waiting,
    /// Cancel each exchange after this many content frames.
    #[arg(long, value_name = "FRAMES")]
    pub cancel_after: Option<u64>,
    /// Deadline of each exchange, ms from its submission.
    #[arg(long, value_name = "MS")]
    pub deadline_ms: Option<u64>,
    /// Pause after each content frame, ms: a consumer that is slow on purpose.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub pause_ms: u64,
    /// Number of this process in the records [default: its process id]
    #[arg(long, value_name = "N")]
    pub process: Option<u64>,
    /// Write each exchange once submitted, too, for processes that are killed.
    #[arg(long)]
    pub submissions: bool,
    /// File that takes one JSON line per exchange; `-` is standard output.
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub out: PathBuf,
}

/// Delivery modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Delivery {
    /// Typed pieces.
    Deltas,
    /// Events of the upstream, byte for byte.
    Events,
    /// One plain body.
    Body,
}

/// Ways to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Waiting {
    /// Sleep until the doorbell rings.
    Block,
    /// Spin while frames come fast.
    Adaptive,
    /// Never sleep.
    Spin,
    /// Share one session among tasks of a tokio runtime.
    Async,
}

/// `ringmain key`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Print a new key, and the lines that stand for it in the configuration.
    New(NewKey),
}

/// `ringmain key new`
#[derive(Args, Debug)]
pub struct NewKey {
    /// Name of the client.
    #[arg(long, value_name = "NAME", default_value = "client")]
    pub name: String,
}

/// `ringmain bench`
#[derive(Args, Debug)]
pub struct Bench {
    /// Run only this suite; may be given several times. An unknown name lists all.
    #[arg(long, value_name = "NAME")]
    pub suite: Vec<String>,
    /// A short run of under a minute, for a look rather than for figures.
    #[arg(long)]
    pub quick: bool,
    /// How long the suite `soak` runs; it runs only when it is named.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=10_080))]
    pub minutes: u32,
    /// Write the rows for other programs.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write one page with the rows, their ratios and histograms as pictures.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// `ringmain bench-role`
#[derive(Args, Debug)]
pub struct BenchRole {
    /// What to do, as JSON.
    pub role: String,
}

/// `ringmain demo-consumer`
#[derive(Args, Debug)]
pub struct DemoConsumer {
    /// How it consumes.
    #[arg(long, value_enum)]
    pub style: Style,
    /// `socket:` and the control socket of the demo's broker, or the base URL of its provider.
    #[arg(long)]
    pub source: String,
    /// Streams at once.
    #[arg(long)]
    pub streams: u32,
    /// Tokens of each stream.
    #[arg(long)]
    pub tokens: u32,
    /// Seed of the first stream's text; each further one adds one.
    #[arg(long)]
    pub first_seed: u64,
    /// The prompt of every stream; `{seed}` stands for its seed.
    #[arg(long)]
    pub prompt: String,
}

/// The consumers of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Style {
    /// One thread per stream.
    Blocking,
    /// Tasks of one thread.
    Async,
    /// As `blocking`, and slow on purpose.
    Slow,
}
