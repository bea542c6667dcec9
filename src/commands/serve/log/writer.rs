//! A log writer that never waits: lines go into a bounded queue, one thread writes them.
//!
//! Standard error may be a pipe that nobody empties. Whoever logs is a thread that serves, so a
//! line that finds the queue full is dropped and counted, and the next line that is written says
//! how many were.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that may wait.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// How long the end of the process waits for the lines that are left.
const FLUSH: Duration = Duration::from_secs(1);

/// Where the lines of the log go in. Clones share one queue.
#[derive(Clone, Default)]
pub struct Lines(Arc<Shared>);

/// Waits for the last lines when it is dropped.
pub struct Flush(Lines);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Bound: [`WAITING_BYTES_MAX`].
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    dropped: u64,
    is_writing: bool,
}

impl Lines {
    /// A queue whose thread writes to `out`. Without a thread, lines are dropped when it is full.
    pub fn new(out: impl Write + Send + 'static) -> io::Result<(Lines, Flush)> {
        let lines = Lines::default();
        let run = lines.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || run.write_all_to(out))?;
        Ok((lines.clone(), Flush(lines)))
    }

    fn push(&self, line: &[u8]) {
        let mut queue = self.0.queue.lock();
        if queue.bytes + line.len() > WAITING_BYTES_MAX {
            queue.dropped += 1;
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.to_vec());
        self.0.changed.notify_all();
    }

    /// The next line to write, and how many were dropped before the queue had room again.
    fn take(queue: &mut Queue) -> Option<(Vec<u8>, u64)> {
        let line = queue.lines.pop_front()?;
        queue.bytes -= line.len();
        queue.is_writing = true;
        Some((line, std::mem::take(&mut queue.dropped)))
    }

    fn write_all_to(&self, mut out: impl Write) {
        let mut queue = self.0.queue.lock();
        // Bound: by the life of the process; every round writes a line or waits for one.
        loop {
            let Some((line, dropped)) = Lines::take(&mut queue) else {
                queue.is_writing = false;
                self.0.changed.notify_all();
                self.0.changed.wait(&mut queue);
                continue;
            };
            MutexGuard::unlocked(&mut queue, || {
                // Nobody is left to be told of an error here.
                let _ = out.write_all(&line);
                if dropped > 0 {
                    let _ =
                        writeln!(out, "{dropped} lines of the log were lost: it is read slowly");
                }
            });
        }
    }

    fn flush(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut queue = self.0.queue.lock();
        while !queue.lines.is_empty() || queue.is_writing {
            if self.0.changed.wait_until(&mut queue, end).timed_out() {
                return false;
            }
        }
        true
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.0.flush(FLUSH);
    }
}

/// One event: the formatter writes it by one call.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> &'a Lines {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// An output that takes nothing before it is let.
    struct Slow {
        gate: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            // A gate that is gone lets everything pass.
            let _ = self.gate.recv();
            let _ = self.written.send(line.to_vec());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Whoever logs goes on while nothing is written; what was dropped is told.
    #[test]
    fn a_slow_output_costs_lines_and_no_time() {
        let (open, gate) = channel();
        let (written, read) = channel();
        let (lines, flush) = Lines::new(Slow { gate, written }).unwrap();
        let line = vec![b'x'; WAITING_BYTES_MAX / 4];
        for _ in 0..20 {
            lines.push(&line);
        }
        assert!(!lines.flush(Duration::ZERO), "it waits for an output that takes nothing");
        drop(open);
        assert!(lines.flush(Duration::from_secs(10)));
        drop(flush);
        let all: Vec<Vec<u8>> = read.try_iter().collect();
        let whole = all.iter().filter(|text| **text == line).count();
        let text = String::from_utf8_lossy(&all.concat()).into_owned();
        let numbers = text.split(|c: char| !c.is_ascii_digit());
        let lost: usize = numbers.filter_map(|number| number.parse::<usize>().ok()).sum();
        // The thread may have taken one line already when the queue was full.
        assert!((4..=5).contains(&whole), "{whole} lines");
        assert_eq!(lost, 20 - whole, "the rest is told");
    }
}
