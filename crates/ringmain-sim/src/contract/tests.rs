//! Good histories pass, and of each clause one broken history is found out.

use std::sync::Arc;

use ringmain_wire::{Code, Sent, Stage};

use super::*;
use crate::fault::Fault;
use crate::plan::{Pieces, Plan};
use crate::provider::{Ended, How, ProviderRecord};
use crate::render::Renderer;
use crate::script::Script;
use crate::text::{seed_of, token_text};

const MS: u64 = 1_000_000;
/// When every exchange here is submitted.
const START: u64 = 1000 * MS;

fn plan(id: &str, n: u64) -> Plan {
    let script = Script::tokens(n).with_id(id);
    Plan { stream: true, seed: seed_of(id), script, ..Plan::default() }
}

/// What the provider writes about a stream that it completed.
fn served(id: &str, n: u64) -> ProviderRecord {
    ProviderRecord {
        number: 1,
        plan: Some(plan(id, n)),
        arrived_ns: START + MS,
        head_ns: Some(START + 2 * MS),
        status: Some(200),
        tokens_sent: n,
        marker_sent: true,
        ended: Some(Ended { at_ns: START + 10 * MS, how: How::Completed }),
        ..ProviderRecord::default()
    }
}

/// A caller that got the first `n` tokens and has not ended.
fn recorder(id: &str, uid: u32, n: u64) -> Recorder {
    let mut recorder = Recorder::new(id, u64::from(uid), uid);
    recorder.accepted(7, u64::from(uid), 0);
    recorder.head(200, &format!("log-{id}"));
    for index in 0..n {
        let text = token_text(seed_of(id), index as usize, 0);
        recorder.content(FrameKind::Delta, 0, text.as_bytes());
    }
    recorder
}

/// The record with times that a test can count with: a frame per millisecond.
fn timed(recorder: Recorder) -> CallerRecord {
    let mut record = recorder.finish();
    record.submitted_ns = START;
    for (index, frame) in (1..).zip(&mut record.frames) {
        frame.t_ns = START + index * MS;
        frame.broker_ns = START + index * MS;
    }
    record.returned_ns = record.frames.last().map(|frame| frame.t_ns);
    if record.cancelled_ns.is_some() {
        record.cancelled_ns = Some(START + 2 * MS);
    }
    record
}

fn ended(id: &str, uid: u32, n: u64) -> CallerRecord {
    let mut recorder = recorder(id, uid, n);
    let bytes = recorder.record().content_bytes();
    recorder.end(Some(bytes));
    timed(recorder)
}

fn failed(id: &str, uid: u32, n: u64, code: Code) -> CallerRecord {
    let mut recorder = recorder(id, uid, n);
    let bytes = recorder.record().content_bytes();
    recorder.error(code, Stage::Relay, Sent::Yes, Some(bytes), 1);
    timed(recorder)
}

/// One whole answer, one that broke off, and one cancelled.
fn good() -> History {
    let mut cut = served("cut", 9);
    cut.plan.as_mut().unwrap().script.fault = Some(Fault::CloseEarly);
    (cut.marker_sent, cut.tokens_sent) = (false, 4);
    cut.ended.as_mut().unwrap().how = How::Fault(Fault::CloseEarly);
    cut.plan.as_mut().unwrap().script.at = Some(4);
    let mut gone = served("gone", 9);
    gone.marker_sent = false;
    gone.ended.as_mut().unwrap().how = How::ClientGone;
    let mut cancelled = recorder("gone", 3, 2);
    cancelled.cancelled(true);
    let callers =
        vec![ended("whole", 1, 9), failed("cut", 2, 4, Code::UpstreamTruncated), timed(cancelled)];
    let provider = vec![served("whole", 9), cut, gone];
    History { callers, provider, ..History::default() }
}

/// A good history, spoiled.
fn spoiled(spoil: impl FnOnce(&mut History)) -> History {
    let mut history = good();
    spoil(&mut history);
    history
}

#[track_caller]
fn finds(clause: u8, history: &History) {
    let found = check(history);
    assert!(found.iter().any(|violation| violation.clause == clause), "{clause}: {found:?}");
}

#[test]
fn a_good_history_is_clean() {
    assert_eq!(check(&good()), []);
}

#[test]
fn a_history_survives_its_lines() {
    let mut lines = Vec::new();
    let mut history = good();
    for caller in &history.callers {
        let begun = CallerRecord { frames: Vec::new(), end: None, ..caller.clone() };
        begun.write_line(&mut lines).unwrap();
        caller.write_line(&mut lines).unwrap();
    }
    lines.extend_from_slice(b"{\"process\":1,\"ui");
    let callers = std::mem::take(&mut history.callers);
    history.add_callers(&lines[..]).unwrap();
    assert_eq!(history.callers, callers);
    lines.extend_from_slice(b"\n{}\n");
    assert!(history.add_callers(&lines[..]).is_err());
    let log = serde_json::to_string(&history.provider).unwrap();
    assert_eq!(serde_json::from_str::<Vec<ProviderRecord>>(&log).unwrap(), history.provider);
}

#[test]
fn events_and_bodies_are_compared_too() {
    let mut plan = plan("e", 5);
    plan.usage = true;
    let mut renderer = Renderer::new(&plan);
    let render = |piece| {
        let mut out = Vec::new();
        renderer.render(piece, None, &mut out);
        out
    };
    let events: Vec<Vec<u8>> = Pieces::new(Arc::new(plan.clone())).map(render).collect();
    let record = |mode, events: &[Vec<u8>]| {
        let mut recorder = recorder("e", 1, 0);
        recorder.record().mode = mode;
        let kind = if mode == Mode::Body { FrameKind::Body } else { FrameKind::Event };
        for event in events {
            recorder.content(kind, 0, event);
        }
        let bytes = recorder.record().content_bytes();
        recorder.end(Some(bytes));
        let mut provider = served("e", 5);
        provider.plan = Some(plan.clone());
        History { callers: vec![timed(recorder)], provider: vec![provider], ..History::default() }
    };
    let mut withheld = events.clone();
    withheld.remove(events.len() - 2);
    assert_eq!(check(&record(Mode::Events, &events)), []);
    assert_eq!(check(&record(Mode::Events, &withheld)), []);
    assert_eq!(check(&record(Mode::Body, &events)), []);
    let mut asked = record(Mode::Events, &withheld);
    asked.callers[0].usage_requested = true;
    finds(8, &asked);
    finds(8, &record(Mode::Body, &withheld));
    finds(8, &record(Mode::Events, &events[..4]));
}

#[test]
fn a_whole_answer_is_known_by_its_hash() {
    let body = b"{\"data\":[]}";
    let record = |sent: &[u8]| {
        let mut recorder = recorder("v", 1, 0);
        recorder.record().mode = Mode::Body;
        recorder.content(FrameKind::Body, 0, body);
        recorder.end(Some(body.len() as u64));
        let mut provider = served("v", 0);
        let plan = provider.plan.as_mut().unwrap();
        (plan.api, plan.stream) = (crate::plan::Api::Embeddings, false);
        provider.answer_hash = Some(crate::text::hash_on(crate::text::HASH_EMPTY, sent));
        provider.bytes_sent = sent.len() as u64;
        let (callers, provider) = (vec![timed(recorder)], vec![provider]);
        History { callers, provider, ..History::default() }
    };
    assert_eq!(check(&record(body)), []);
    finds(8, &record(b"{\"data\":{}}"));
    finds(8, &record(b"{}"));
}

#[test]
fn contract_01_nothing_comes_of_a_refused_submission() {
    finds(1, &spoiled(|history| history.callers[0].returned = Returned::Refused(52)));
}

#[test]
fn contract_02_exactly_one_terminal_and_last() {
    let frames = |history: &mut History| history.callers[0].frames.clone();
    finds(2, &spoiled(|history| drop(history.callers[0].frames.pop())));
    finds(
        2,
        &spoiled(|history| {
            let end = frames(history).pop().unwrap();
            history.callers[0].frames.push(end);
        }),
    );
    finds(
        2,
        &spoiled(|history| {
            let content = frames(history)[1].clone();
            history.callers[0].frames.push(content);
        }),
    );
    finds(
        2,
        &spoiled(|history| {
            history.broker_deaths.push(BrokerDeath { epoch: 7, at_ns: START });
            history.callers[0].frames.last_mut().unwrap().t_ns = START + 1200 * MS;
        }),
    );
}

#[test]
fn contract_03_no_call_outlives_its_deadline() {
    let late = |by| {
        spoiled(|history| {
            history.callers[0].deadline_ns = Some(START + 5 * MS);
            history.callers[0].returned_ns = Some(START + 5 * MS + by);
        })
    };
    finds(3, &late(201 * MS));
    assert_eq!(check(&late(150 * MS)), []);
}

#[test]
fn contract_04_at_most_once_upstream() {
    finds(
        4,
        &spoiled(|history| {
            let mut twice = history.provider[0].clone();
            (twice.tokens_sent, twice.number) = (0, 2);
            history.provider.insert(0, twice);
        }),
    );
    finds(
        4,
        &spoiled(|history| {
            if let Some(End::Error { sent, .. }) = &mut history.callers[1].end {
                *sent = Sent::No as u8;
            }
        }),
    );
}

#[test]
fn contract_04_attempts_are_counted_as_they_were() {
    let told = |number, is_all| {
        spoiled(|history| {
            let mut first = history.provider[0].clone();
            (first.tokens_sent, first.status) = (0, Some(503));
            history.provider.insert(0, first);
            history.callers[0].attempt = Some(number);
            history.all_attempts_seen = is_all;
        })
    };
    assert_eq!(check(&told(2, true)), []);
    assert_eq!(check(&told(3, false)), [], "one may have failed on the way");
    finds(4, &told(3, true));
    finds(4, &told(1, false));
    let failed = |attempts: u16| {
        spoiled(|history| {
            if let Some(End::Error { attempts: told, .. }) = &mut history.callers[1].end {
                *told = attempts;
            }
            let mut first = history.provider[1].clone();
            (first.tokens_sent, first.status) = (0, Some(503));
            history.provider.insert(1, first);
        })
    };
    assert_eq!(check(&failed(2)), []);
    finds(4, &failed(1));
}

#[test]
fn contract_05_what_was_refused_unprocessed_may_be_sent_again() {
    let refused = |fault| {
        spoiled(|history| {
            let mut first = history.provider[0].clone();
            (first.tokens_sent, first.status, first.marker_sent) = (0, None, false);
            first.plan.as_mut().unwrap().script.fault = Some(fault);
            history.provider.insert(0, first);
            // Even what must be done once: nothing was done yet.
            history.callers[0].once = true;
        })
    };
    assert_eq!(check(&refused(Fault::RefusedStream)), []);
    assert_eq!(check(&refused(Fault::GoawayBefore)), []);
    finds(4, &refused(Fault::RstInternal));
}

#[test]
fn contract_05_an_error_object_is_a_failure_before_content() {
    let told = |fault, once| {
        spoiled(|history| {
            let mut first = history.provider[0].clone();
            (first.tokens_sent, first.marker_sent) = (0, false);
            first.plan.as_mut().unwrap().script.fault = Some(fault);
            history.provider.insert(0, first);
            history.callers[0].once = once;
        })
    };
    assert_eq!(check(&told(Fault::ErrorObject, false)), []);
    finds(5, &told(Fault::ErrorObject, true));
    // What else broke behind a good status may be work that was done.
    for fault in [Fault::Empty, Fault::EncodingUnknown, Fault::InvalidJson, Fault::CloseEarly] {
        finds(4, &told(fault, false));
    }
}

#[test]
fn contract_05_a_retry_only_where_it_does_no_harm() {
    let retried = |once| {
        spoiled(|history| {
            let mut first = history.provider[0].clone();
            (first.tokens_sent, first.status) = (0, Some(503));
            history.provider.insert(0, first);
            history.callers[0].once = once;
        })
    };
    assert_eq!(check(&retried(false)), []);
    finds(5, &retried(true));
}

#[test]
fn contract_06_no_retry_after_content() {
    finds(
        6,
        &spoiled(|history| {
            let mut first = history.provider[0].clone();
            first.status = Some(503);
            history.provider.insert(0, first);
        }),
    );
}

#[test]
fn contract_07_an_end_only_when_the_provider_ended() {
    finds(7, &spoiled(|history| history.callers[1] = ended("cut", 2, 4)));
    finds(
        7,
        &spoiled(|history| {
            if let Some(End::Error { bytes, .. }) = &mut history.callers[1].end {
                *bytes = Some(1);
            }
        }),
    );
}

#[test]
fn contract_08_delivered_bytes_are_a_prefix() {
    let delivered = |order: &[usize]| {
        let mut recorder = recorder("whole", 1, 0);
        for &index in order {
            let text = token_text(seed_of("whole"), index, 0);
            recorder.content(FrameKind::Delta, 0, text.as_bytes());
        }
        recorder.end(None);
        spoiled(|history| history.callers[0] = timed(recorder))
    };
    assert_eq!(check(&delivered(&[0, 1, 2, 3, 4, 5, 6, 7, 8])), []);
    finds(8, &delivered(&[0, 1, 3, 2, 4, 5, 6, 7, 8]));
    finds(8, &delivered(&[0, 1, 1, 2, 3, 4, 5, 6, 7, 8]));
    finds(8, &delivered(&[0, 2, 3, 4, 5, 6, 7, 8]));
    finds(8, &delivered(&[0, 1, 2]));
}

#[test]
fn contract_09_order_within_an_exchange() {
    finds(9, &spoiled(|history| history.callers[0].frames.swap(0, 1)));
    finds(9, &spoiled(|history| history.callers[0].frames[3].broker_ns = 1));
    finds(9, &spoiled(|history| drop(history.callers[0].frames.remove(0))));
}

#[test]
fn contract_10_a_cancel_reaches_the_provider() {
    finds(
        10,
        &spoiled(|history| {
            history.provider[2].ended.as_mut().unwrap().at_ns = START + 250 * MS;
        }),
    );
    finds(10, &spoiled(|history| history.provider[2].ended = None));
}

#[test]
fn contract_11_a_death_gives_everything_back() {
    let death = |at_ns| {
        spoiled(|history| {
            history.deaths.push(Death { process: 3, at_ns: START });
            history.callers[2].cancelled_ns = None;
            history.provider[2].ended.as_mut().unwrap().at_ns = at_ns;
        })
    };
    assert_eq!(check(&death(START + 900 * MS)), []);
    finds(11, &death(START + 1200 * MS));
    let mut inside = death(START + 1200 * MS);
    inside.callers[2].returned = Returned::Nothing;
    finds(11, &inside);
    let gauge = Gauge { name: "exchanges".to_owned(), rest: 0, value: 1 };
    finds(11, &spoiled(|history| history.gauges.push(gauge)));
}

#[test]
fn contract_12_would_block_means_not_submitted() {
    finds(12, &spoiled(|history| history.callers[0].returned = Returned::WouldBlock));
}

#[test]
fn contract_13_nothing_of_one_uid_reaches_another() {
    finds(
        13,
        &spoiled(|history| {
            let mut stolen = ended("cut", 1, 4);
            stolen.id = "whole".to_owned();
            history.callers[0] = stolen;
        }),
    );
    finds(13, &spoiled(|history| history.callers[0].session = 2));
}

#[test]
fn contract_14_each_uid_gets_its_share() {
    let shared = |of_second: u64| {
        let mut history = History::default();
        for index in 0..20 {
            let uid = if index < of_second { 2 } else { 1 };
            let id = format!("s-{index}");
            history.callers.push(ended(&id, uid, 3));
            history.provider.push(served(&id, 3));
        }
        let (from_ns, until_ns) = (START, START + 100 * MS);
        history.contentions.push(Contention { uids: vec![1, 2], from_ns, until_ns });
        history
    };
    assert_eq!(check(&shared(10)), []);
    assert_eq!(check(&shared(5)), []);
    finds(14, &shared(4));
    let mut elsewhere = shared(4);
    elsewhere.contentions[0].until_ns = START;
    assert_eq!(check(&elsewhere), [], "nobody competed then");
}

#[test]
fn contract_15_deadlines_are_absolute() {
    finds(
        15,
        &spoiled(|history| {
            history.callers[1] = failed("cut", 2, 4, Code::DeadlineExceeded);
            history.callers[1].deadline_ns = Some(START + 500 * MS);
        }),
    );
    finds(
        15,
        &spoiled(|history| {
            history.callers[0].deadline_ns = Some(START);
            history.provider[0].arrived_ns = START + 300 * MS;
        }),
    );
}

#[test]
fn contract_18_a_drain_refuses_and_finishes() {
    let drain = Drain { epoch: 7, at_ns: START - 500 * MS, limit_ns: 0, exited_ns: Some(START) };
    finds(18, &spoiled(|history| history.drains.push(drain)));
    let drain = |exited_ns| Drain { epoch: 7, at_ns: START, limit_ns: 5000 * MS, exited_ns };
    finds(
        18,
        &spoiled(|history| {
            history.drains.push(drain(Some(START + 6 * MS)));
            history.callers[1] = failed("cut", 2, 4, Code::Drained);
        }),
    );
    finds(18, &spoiled(|history| history.drains.push(drain(None))));
    let in_time = drain(Some(START + 5000 * MS));
    assert_eq!(check(&spoiled(|history| history.drains.push(in_time))), []);
}

#[test]
fn contract_19_an_old_epoch_ends_as_such() {
    let died = BrokerDeath { epoch: 7, at_ns: START + MS };
    let lost = |code| {
        spoiled(|history| {
            history.callers = vec![failed("gone", 3, 2, code)];
            history.callers[0].frames.last_mut().unwrap().t_ns = START + 700 * MS;
            history.provider[2].ended.as_mut().unwrap().at_ns = START + 300 * MS;
            history.broker_deaths.push(died);
        })
    };
    assert_eq!(check(&lost(Code::BrokerRestarted)), []);
    assert_eq!(check(&lost(Code::BrokerGone)), []);
    finds(19, &lost(Code::UpstreamReset));
    finds(
        19,
        &spoiled(|history| {
            history.callers[1] = failed("cut", 2, 4, Code::BrokerRestarted);
        }),
    );
}

#[test]
fn contract_20_a_violation_closes_its_session_with_its_reason() {
    let hostile = |code: Option<Code>, closed_ns| {
        let code = code.map(|code| code as u16);
        let what = "garbage".to_owned();
        let peer = Hostility { session: 99, what, at_ns: START, code, closed_ns };
        spoiled(|history| history.hostilities.push(peer))
    };
    assert_eq!(check(&hostile(Some(Code::ViolationEntry), Some(START))), []);
    finds(20, &hostile(None, None));
    finds(20, &hostile(Some(Code::Internal), Some(START)));
    finds(
        20,
        &spoiled(|history| {
            history.callers[1] = failed("cut", 2, 4, Code::ViolationCursor);
        }),
    );
}

#[test]
fn a_long_stream_folds_its_frames() {
    let mut recorder = recorder("long", 1, 0);
    for index in 0..FRAMES_MAX + 100 {
        let text = token_text(seed_of("long"), index, 0);
        recorder.content(FrameKind::Delta, 0, text.as_bytes());
    }
    recorder.end(None);
    let record = recorder.finish();
    assert_eq!(record.frames.len(), FRAMES_MAX + 1);
    assert_eq!(
        record.frames.iter().map(|frame| frame.frames).sum::<u64>() as usize,
        FRAMES_MAX + 102
    );
    let n = (FRAMES_MAX + 100) as u64;
    let history =
        History { callers: vec![record], provider: vec![served("long", n)], ..History::default() };
    assert_eq!(check(&history), []);
}
