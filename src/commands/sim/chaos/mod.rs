//! `ringmain sim --chaos`: a random run of faults, cancels, kills and limits against a broker of
//! its own, judged by the checker of the delivery contract.
//!
//! The schedule is drawn from the seed before anything begins, and its digest is printed: what is
//! done and when is the same for the same seed. What comes of it is up to the machine, so only
//! that is judged which must hold whatever happens.

mod schedule;
mod world;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ringmain_sim::Lag;
use ringmain_sim::contract::{Bounds, End, History, check};

use self::schedule::{Schedule, What};
use self::world::{Failed, World};
use crate::commands::{Outcome, private_folder};

/// What the processes of a run need to notice and write down what happened: all of them run on the
/// same few cores. What others on the host take from them comes on top of it.
const SLACK_NS: u64 = 700_000_000;
/// Most violations that are told one by one.
const TOLD_MAX: usize = 20;
/// How often it is looked whether somebody is to be killed.
const TICK: Duration = Duration::from_millis(10);

/// Plays the run of this seed and judges it.
pub fn run(seed: Option<u64>, minutes: f64) -> Outcome {
    let seed = seed.unwrap_or_else(|| ringmain_shm::monotonic_ns() % 1_000_000);
    let length_ms = (minutes.clamp(0.01, 24.0 * 60.0) * 60_000.0) as u64;
    let schedule = Schedule::draw(seed, length_ms);
    let steps = schedule.steps.len();
    say(&format!(
        "seed {seed}: {steps} steps in {length_ms} ms, schedule {:016x}",
        schedule.digest()
    ));
    // Kept whatever happens, but for the good end: it holds the broker's log.
    let folder = private_folder("ringmain-chaos-", &std::env::temp_dir())?.keep();
    let mut lag = Lag::default();
    let world = play(World::start(folder)?, &schedule, &mut lag)?;
    let (mut history, folder) = world.finish()?;
    let slack_ns = SLACK_NS + lag.slack().as_nanos() as u64;
    history.bounds = Bounds { slack_ns, ..Bounds::default() };
    let violations = check(&history);
    say(&summary(&history));
    for violation in violations.iter().take(TOLD_MAX) {
        say(&format!("{violation}"));
    }
    say(&format!("{} violations", violations.len()));
    if violations.is_empty() && !history.callers.is_empty() {
        std::fs::remove_dir_all(folder)?;
        return Ok(ExitCode::SUCCESS);
    }
    let seen = serde_json::to_vec(&history.provider)?;
    std::fs::write(folder.join("provider.json"), seen)?;
    std::fs::write(folder.join("schedule"), schedule.to_string())?;
    say(&format!("what was recorded stays in {}", folder.display()));
    Ok(ExitCode::FAILURE)
}

fn play(mut world: World, schedule: &Schedule, lag: &mut Lag) -> Result<World, Failed> {
    let start = Instant::now();
    for (process, step) in (1..).zip(&schedule.steps) {
        let due = start + Duration::from_millis(step.at_ms);
        while Instant::now() < due {
            world.kill_due()?;
            lag.sleep(TICK);
        }
        match &step.what {
            What::KillBroker => world.kill_broker()?,
            What::Load(load) => world.load(process, load)?,
        }
    }
    // The last of them may still have to die.
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        world.kill_due()?;
        lag.sleep(TICK);
    }
    Ok(world)
}

fn summary(history: &History) -> String {
    let good = |end: &Option<End>| matches!(end, Some(End::End { .. }));
    let failed = |end: &Option<End>| matches!(end, Some(End::Error { .. }));
    let callers = &history.callers;
    let count = |is: &dyn Fn(&Option<End>) -> bool| callers.iter().filter(|c| is(&c.end)).count();
    format!(
        "{} exchanges: {} good ends, {} errors; {} requests at the providers; {} processes and {} \
         brokers killed",
        callers.len(),
        count(&good),
        count(&failed),
        history.provider.len(),
        history.deaths.len(),
        history.broker_deaths.len(),
    )
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    // Whoever does not listen is served by the exit status.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
