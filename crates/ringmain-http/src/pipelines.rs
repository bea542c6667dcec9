//! The pipelines of exchanges, one exchange after the other in each. The future of one is some six
//! thousand bytes, of which a plain request uses a few hundred: to take them from the heap, to move
//! it there and to give them back again is a tenth of the work that such a request is.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;

use crate::bell::Part;
use crate::exchange::{self, Job};
use crate::refusal::Refusal;

/// Most pipelines that are kept for the next exchange. Bound of the memory that waits for one:
/// 1 MiB, with what is left of the tasks that have polled them last.
const KEPT_MAX: usize = 64;

/// How an exchange ended.
pub(crate) type Outcome = Result<(), Box<Refusal>>;

/// Pipelines that have nothing to do.
#[derive(Default)]
pub(crate) struct Pipelines(Mutex<Vec<Pipeline>>);

/// An exchange in its pipeline. Dropped before its end it takes the pipeline with it, and with that
/// the request upstream.
pub(crate) struct Work {
    /// `None` once it has ended.
    pipeline: Option<Pipeline>,
    home: Arc<Pipelines>,
}

struct Pipeline {
    future: Pin<Box<dyn Future<Output = Infallible> + Send>>,
    /// The server polls more often than the pipeline is woken.
    part: Part,
    desk: Arc<Mutex<Desk>>,
}

/// Where the pipeline finds its job and leaves what became of it. Its two sides take turns in one
/// task, so the lock is never waited for.
#[derive(Default)]
struct Desk {
    job: Option<Job>,
    outcome: Option<Outcome>,
}

impl Pipelines {
    /// Puts an exchange into a pipeline; it runs when it is polled.
    pub fn begin(self: &Arc<Self>, job: Job) -> Work {
        let kept = self.0.lock().pop();
        let pipeline = kept.unwrap_or_else(|| Pipeline::new(serve));
        pipeline.desk.lock().job = Some(job);
        pipeline.part.ring();
        Work { pipeline: Some(pipeline), home: self.clone() }
    }

    fn keep(&self, pipeline: Pipeline) {
        let mut kept = self.0.lock();
        if kept.len() < KEPT_MAX {
            kept.push(pipeline);
        }
    }
}

impl Work {
    /// Runs the exchange until it has to wait, if it was woken; ready once.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(Pipeline { future, part, desk }) = &mut self.pipeline else {
            return Poll::Pending;
        };
        let ended = part.poll(cx, |cx| {
            match future.as_mut().poll(cx) {
                Poll::Pending => {}
                Poll::Ready(never) => match never {},
            }
            desk.lock().outcome.take().map_or(Poll::Pending, Poll::Ready)
        });
        if let Poll::Ready(_) = ended
            && let Some(pipeline) = self.pipeline.take()
        {
            self.home.keep(pipeline);
        }
        ended
    }

    /// Runs it whether it was woken or not.
    pub fn poll_now(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Some(pipeline) = &self.pipeline {
            pipeline.part.ring();
        }
        self.poll(cx)
    }

    /// One that is no exchange, and whose pipeline serves no other.
    #[cfg(test)]
    pub fn alone(work: impl Future<Output = Outcome> + Send + 'static) -> Work {
        let pipeline = Pipeline::new(|desk| async move {
            let outcome = work.await;
            desk.lock().outcome = Some(outcome);
            std::future::pending().await
        });
        Work { pipeline: Some(pipeline), home: Arc::default() }
    }
}

impl Pipeline {
    fn new<F>(serve: impl FnOnce(Arc<Mutex<Desk>>) -> F) -> Pipeline
    where
        F: Future<Output = Infallible> + Send + 'static,
    {
        let desk = Arc::<Mutex<Desk>>::default();
        Pipeline { future: Box::pin(serve(desk.clone())), part: Part::new(), desk }
    }
}

/// Serves for ever.
async fn serve(desk: Arc<Mutex<Desk>>) -> Infallible {
    loop {
        // Nobody is woken for a job: whoever leaves one polls.
        let mut job = poll_fn(|_| desk.lock().job.take().map_or(Poll::Pending, Poll::Ready)).await;
        let (outcome, rest) = job.run().await;
        // The log line is written, and no drain waits for it any more.
        drop(job);
        exchange::settle(rest);
        desk.lock().outcome = Some(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn an_end_is_told_once() {
        let mut work = Work::alone(async { Ok(()) });
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(work.poll(&mut cx), Poll::Ready(Ok(()))));
        assert!(work.poll(&mut cx).is_pending());
        assert_eq!(work.home.0.lock().len(), 1, "its pipeline is kept");
    }

    #[test]
    fn no_more_are_kept_than_the_bound() {
        let pipelines = Pipelines::default();
        for _ in 0..KEPT_MAX + 1 {
            pipelines.keep(Pipeline::new(serve));
        }
        assert_eq!(pipelines.0.lock().len(), KEPT_MAX);
    }

    /// What was given up is in the midst of its exchange, and serves no other.
    #[test]
    fn a_pipeline_that_was_given_up_is_not_kept() {
        let mut work = Work::alone(std::future::pending());
        assert!(work.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let home = work.home.clone();
        drop(work);
        assert!(home.0.lock().is_empty());
    }
}
