//! Events and bodies as large as the face takes them.

use std::net::SocketAddr;
use std::sync::mpsc;

use ringmain_sim::ProviderConfig;
use serde_json::json;

use crate::World;
use crate::canned;
use crate::common::Config;
use crate::wire::Reply;

const CHAT: &str = "/v1/chat/completions";
const MIB: usize = 1 << 20;
const DONE: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
    data: [DONE]\n\n";

/// An event of exactly so many bytes.
fn event(bytes: usize) -> Vec<u8> {
    let (before, behind) =
        ("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"", "\"}}]}\n\n");
    // The limit is on what stands before the blank line.
    let text = "x".repeat(bytes + 1 - before.len() - behind.len());
    format!("{before}{text}{behind}").into_bytes()
}

/// A broker whose provider answers with as many events as the prompt says, of so many bytes.
fn world(endpoint: &str, tail: &str) -> World {
    let addr = canned::provider(|body| {
        let asked: serde_json::Value = serde_json::from_slice(body).unwrap();
        let (count, bytes) = (asked["n"].as_u64().unwrap(), asked["seed"].as_u64().unwrap());
        let events = event(bytes as usize).repeat(count as usize);
        canned::answer(200, "text/event-stream", &[&events, DONE.as_bytes()].concat())
    });
    leading_to(addr, endpoint, tail)
}

/// A broker with this provider.
fn leading_to(addr: SocketAddr, endpoint: &str, tail: &str) -> World {
    let tail = format!(
        "[[endpoint]]\nname = \"large\"\nbase_url = \"http://{addr}/v1\"\nusage = \"off\"\n{endpoint}\n\
         [[route]]\nmodel = \"large\"\nendpoints = [{{ name = \"large\" }}]\n{tail}"
    );
    World::of("", Config { tail, ..Config::default() }, ProviderConfig::default())
}

fn ask(world: &World, events: usize, bytes: usize) -> Reply {
    let body =
        json!({"model": "large", "stream": true, "messages": [], "n": events, "seed": bytes});
    world.post(CHAT, &body)
}

#[test]
fn http_an_event_of_16_mib_passes() {
    let world = world("", "");
    let reply = ask(&world, 1, 16 * MIB);
    assert_eq!((reply.status, reply.is_whole), (200, true));
    let expected = [&event(16 * MIB)[..], DONE.as_bytes()].concat();
    assert!(reply.body == expected, "{} of {} bytes", reply.body.len(), expected.len());
}

#[test]
fn http_the_limit_of_an_event_is_the_endpoint_s() {
    let world = world("event_max = \"64KiB\"", "");
    assert!(ask(&world, 5, 64 << 10).is_whole);
    let reply = ask(&world, 1, (64 << 10) + 1);
    assert_eq!((reply.status, reply.code().as_str()), (502, "UpstreamTooLarge"));
    assert!(reply.text().contains("more than 65536 bytes"), "{}", reply.text());
}

/// What is held until it is whole counts against the one who asked for it, and comes back.
#[test]
fn http_a_long_event_is_charged_to_its_caller() {
    let world = world("", "[quota]\ncopy_bytes = 2097152\n");
    let reply = ask(&world, 1, 4 * MIB);
    assert_eq!((reply.status, reply.code().as_str()), (429, "QuotaExceeded"), "{}", reply.text());
    world.await_rest();
    for _ in 0..4 {
        assert!(ask(&world, 2, MIB / 2).is_whole);
    }
}

/// Nobody but the broker looks into it: what it costs the test itself is not what is shown.
#[test]
fn http_a_request_of_nearly_32_mib_passes() {
    let of_bytes = |bytes: usize| {
        let text = "y".repeat(bytes);
        format!("{{\"model\":\"large\",\"messages\":[],\"x\":\"{text}\"}}").into_bytes()
    };
    let (seen, given) = mpsc::channel();
    let addr = canned::provider(move |body| {
        seen.send(body.to_vec()).unwrap();
        canned::answer(200, "application/json", b"{}")
    });
    let world = leading_to(addr, "", "");
    let body = of_bytes(31 * MIB);
    assert_eq!(world.connect().post(CHAT, &[], &body).status, 200);
    assert!(given.try_recv().unwrap() == body, "as it was sent");
    let reply = world.connect().post(CHAT, &[], &of_bytes(32 * MIB));
    assert_eq!((reply.status, reply.code().as_str()), (413, "BodyTooLarge"));
    assert!(given.try_recv().is_err());
}
