//! Options of the example, and a broker with a simulated provider when none is given.

mod help;

use std::env;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use ringmain_client::SOCKET_VARIABLE;
use tempfile::TempDir;

const USAGE: &str = "\
many_streams: many streams at once from one process, each checked token by token

  --streams N    how many [default: 1000]
  --tokens N     tokens of each [default: 100]
  --model NAME   a route that leads to a simulated provider [default: tiny]
  --socket PATH  a running broker [default: $RINGMAIN_SOCKET, else a broker of its own]";

/// `--streams N --tokens N --model NAME --socket PATH`
pub struct Options {
    pub streams: u64,
    pub tokens: u64,
    pub model: String,
    socket: Option<PathBuf>,
}

/// `ringmain sim` and `ringmain serve`, stopped when this is dropped. Empty when a broker is given.
pub struct Stack {
    // Stopped in this order: the broker, then the provider.
    children: Vec<Child>,
    own: Option<(TempDir, PathBuf)>,
    /// Kept open, so that the provider may go on writing to it.
    _output: Option<BufReader<ChildStdout>>,
}

impl Options {
    /// Reads the command line; the error is the text to show.
    pub fn from_args() -> Result<Options, String> {
        let mut options =
            Options { streams: 1000, tokens: 100, model: "tiny".to_owned(), socket: None };
        let mut args = help::arguments(USAGE);
        while let Some(flag) = args.next() {
            let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
            let number = || value.parse().map_err(|_| format!("{flag} {value}: not a number"));
            match &flag[..] {
                "--streams" => options.streams = number()?,
                "--tokens" => options.tokens = number()?,
                "--model" => options.model = value,
                "--socket" => options.socket = Some(value.into()),
                _ => return Err(format!("{flag}: not --streams, --tokens, --model or --socket")),
            }
        }
        Ok(options)
    }
}

impl Stack {
    /// Starts what the options and the environment do not name.
    pub fn for_options(options: &Options) -> Result<Stack, Box<dyn Error>> {
        let given = options.socket.is_some() || env::var_os(SOCKET_VARIABLE).is_some();
        if given {
            return Ok(Stack { children: Vec::new(), own: None, _output: None });
        }
        // A thousand streams are a thousand connections to the provider; children inherit this.
        ringmain_shm::raise_nofile()?;
        Stack::start(&binary()?, &options.model)
    }

    /// The socket to use; `None`: discovery finds it.
    pub fn socket<'a>(&'a self, options: &'a Options) -> Option<&'a Path> {
        let own = self.own.as_ref().map(|(_, socket)| socket.as_path());
        options.socket.as_deref().or(own)
    }

    fn start(binary: &Path, model: &str) -> Result<Stack, Box<dyn Error>> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("broker.sock");
        let mut sim = Command::new(binary)
            .args(["sim", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = sim.stdout.take().map(BufReader::new);
        let mut stack =
            Stack { children: vec![sim], own: Some((dir, socket.clone())), _output: output };
        let base_url = stack.first_line()?;
        println!("simulated provider at {base_url}");
        let config = stack.write_config(&socket, base_url.trim(), model)?;
        let serve = Command::new(binary).arg("serve").arg("--config").arg(config).spawn()?;
        stack.children.insert(0, serve);
        Ok(stack)
    }

    fn first_line(&mut self) -> Result<String, Box<dyn Error>> {
        let mut line = String::new();
        if let Some(output) = &mut self._output {
            output.read_line(&mut line)?;
        }
        match line.trim() {
            "" => Err("`ringmain sim` ended without naming its address".into()),
            url => Ok(url.to_owned()),
        }
    }

    fn write_config(
        &self,
        socket: &Path,
        base_url: &str,
        model: &str,
    ) -> Result<PathBuf, Box<dyn Error>> {
        let path = socket.with_file_name("ringmain.toml");
        let text = format!(
            "[broker]\nsocket = {socket:?}\nlog = \"warn\"\n\n[[endpoint]]\nname = \"sim\"\n\
             base_url = {base_url:?}\n\n[[route]]\nmodel = {model:?}\n\
             endpoints = [{{ name = \"sim\" }}]\n"
        );
        fs::write(&path, text)?;
        Ok(path)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The `ringmain` binary of this very build: two folders up from `examples/`. Built when it is
/// missing and cargo runs this.
fn binary() -> Result<PathBuf, Box<dyn Error>> {
    let own = env::current_exe()?;
    let target = own.parent().and_then(Path::parent).ok_or("no folder above the example")?;
    let binary = target.join("ringmain");
    if binary.exists() {
        return Ok(binary);
    }
    let release = target.ends_with("release");
    if let Some(cargo) = env::var_os("CARGO") {
        println!("building the ringmain binary");
        let profile = release.then_some("--release");
        Command::new(cargo).args(["build", "--bin", "ringmain"]).args(profile).status()?;
    }
    if binary.exists() {
        return Ok(binary);
    }
    let text = format!(
        "{} is not built; run `cargo build{}` first, or set {SOCKET_VARIABLE}",
        binary.display(),
        if release { " --release" } else { "" },
    );
    Err(text.into())
}
